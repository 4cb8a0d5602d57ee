"""Rolling a version out to running servers, and back. What cannot answer as it did at export never answers a client.

1. The version is uploaded beside the served ones, which no server looks at yet.
2. It is loaded on every replica as a model of its own name, asked for the reference sample, compared, and unloaded.
3. The configuration is switched, and each replica in turn loads it; the version answers there from then on, and the
   reference sample is asked for again. The version before stays loaded.
4. A failure in 2 costs no client anything; one in 3 puts the configuration back, on every replica.

Every step can be repeated: a roll-out that was killed is finished by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.deploy.served import CANDIDATE_NAME, Pending, ServedRepository, Snapshot
from components.deploy.store import LeaseLost
from get3d_model.errors import InputError
from serving.codec import MODEL_NAME
from serving.model_config import with_limits
from serving.reference import Reference, ReferenceMismatch, compare, read_reference
from serving.replica import Replica, ReplicaError
from serving.repository import CARD_FILE, CONFIG_FILE, check_version, read_model_card, versions

DRAIN_TIMEOUT_S = 30.0
"""For calls that are under way on a version that leaves, before its files go."""
DEPLOYED, ROLLED_BACK = "deployed", "rolled_back"
ASKED_FOR = "asked for"
FAILURES = (ReplicaError, ReferenceMismatch, InputError)


@dataclass
class ReplicaReport:
    """state: untouched, candidate_passed, serving, restored or failed. Seconds and comparison of the latest test."""

    state: str = "untouched"
    load_s: float | None = None
    sample_s: float | None = None
    identical: bool | None = None
    distance: float | None = None
    error: str | None = None


@dataclass
class Report:
    """What `deploy.json` holds. version: what answers now. previous_version: what answered before.

    attempted_version: the number of the version that was not good. reason: why, in one line.
    """

    outcome: str
    version: int | None
    previous_version: int | None
    reason: str | None = None
    attempted_version: int | None = None
    exported_version: int | None = None
    checkpoint_sha256: str | None = None
    removed_versions: list[int] = field(default_factory=list)
    seconds: float = 0.0
    replicas: dict[str, ReplicaReport] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Export:
    """A version to roll out, checked. config: its `config.pbtxt`."""

    folder: Path
    number: int
    config: str
    reference: Reference


def read_export(repository: Path, version: int | None) -> Export:
    """The newest version of an exported repository, or the one asked for. Raises InputError for what is damaged."""
    present = versions(repository)
    number = version if version is not None else (present[-1] if present else None)
    if number is None or number not in present:
        what = "model" if version is None else f"version {version}"
        raise InputError(
            f"{repository}: holds no {what}; make one with: get3d export --repository {repository}"
        )
    folder = Path(repository) / MODEL_NAME / str(number)
    check_version(folder)
    try:
        config = (folder.parent / CONFIG_FILE).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder.parent / CONFIG_FILE}: cannot be read ({error}); export the model again"
        ) from None
    card = read_model_card(folder)
    limits = card.limits.queue_size, card.limits.queue_timeout_s
    return Export(folder, number, with_limits(config, card.max_batch_size, *limits), read_reference(folder))


class Rollout:
    """One roll-out to `replicas`; the store's lock is held. say: is told what happens.

    keep: versions that stay loaded, the current one among them.
    """

    def __init__(
        self, served: ServedRepository, replicas: list[Replica], keep: int, say: Callable[[str], None]
    ) -> None:
        self.served = served
        self.replicas = replicas
        self.keep = keep
        self.say = say
        self.reports = {replica.url: ReplicaReport() for replica in replicas}

    def deploy(self, export: Export) -> Report:
        """Never raises for what a version, a replica or the store does wrong: the report says it. Raises LeaseLost."""
        start, number, before, verified = time.monotonic(), None, self.served.snapshot(), False
        removed: list[int] = []
        try:
            pending = self.served.pending()
            card = (export.folder / CARD_FILE).read_bytes()
            again = self.served.holds(before.current, card, export.config)
            if pending is not None and not (again and pending == Pending("deploy", before.current)):
                before = self._settle(pending, before)
                again = self.served.holds(before.current, card, export.config)
            if again:
                # An earlier run got as far as the switch, or even to the end.
                number, verified = before.current, self.served.pending() is None
                removed = self._switch(before.served, number, export.reference)
            else:
                number = self.served.add_version(export.folder, export.number, export.config)
                self.say(f"version {number} uploaded beside {before.served or 'nothing'}")
                self._test_candidate(export, number)
                self.served.set_pending(Pending("deploy", number))
                kept = before.served[-(self.keep - 1) :] if self.keep > 1 else []
                removed = self._switch([*kept, number], number, export.reference)
        except LeaseLost:
            # Whatever is served now is another's business.
            raise
        except (*FAILURES, OSError) as error:
            if verified:
                report = Report(DEPLOYED, number, before.previous, f"{error}; that replica needs a look")
            else:
                report = self._back_to(before, number, str(error))
        else:
            report = Report(DEPLOYED, number, before.previous if again else before.current)
            report.removed_versions = removed
        report.exported_version, report.replicas = export.number, self.reports
        return self._recorded(report, start, settled=True)

    def roll_back(self) -> Report:
        """To the version before, which is still loaded. Raises InputError where there is none."""
        start, now, pending = time.monotonic(), self.served.snapshot(), self.served.pending()
        if pending is not None and pending.action == "rollback" and pending.version in now.served:
            target = pending.version
        else:
            target = now.previous
        if target is None:
            raise InputError(
                f"{self.served.store.location}: keeps no version before {now.current}; deploy one"
            )
        self.served.set_pending(Pending("rollback", target))
        report = Report(ROLLED_BACK, target, now.current, ASKED_FOR, replicas=self.reports)
        kept = [version for version in now.served if version <= target]
        try:
            reference = self.served.reference(target)
            self.served.serve(kept)
            # All at a time, each to its end: a replica that is away keeps the others from nothing.
            failures = [e for e in self._on_all(lambda r: self._switch_one(r, target, reference)) if e]
            if failures:
                raise failures[0]
        except FAILURES as error:
            report.reason = f"{ASKED_FOR}, but not every replica followed: {error}"
        # What not every replica did is done by the next run.
        return self._recorded(report, start, settled=report.reason == ASKED_FOR)

    def _recorded(self, report: Report, start: float, settled: bool) -> Report:
        report.seconds = round(time.monotonic() - start, 3)
        event = {key: value for key, value in report.to_json().items() if key != "replicas"}
        self.served.record(event, settled)
        return report

    def _settle(self, pending: Pending, before: Snapshot) -> Snapshot:
        """Undoes or ends a switch that was killed and is of no interest any more, before something else begins."""
        if pending.action == "deploy":
            kept = [version for version in before.served if version != pending.version]
        else:
            kept = [version for version in before.served if version <= pending.version]
        self.say(f"settling a {pending.action} to version {pending.version} that was interrupted")
        if kept:
            self.served.serve(kept)
            # Also where the configuration says so already: not every replica may have read it.
            for replica in self.replicas:
                replica.load(MODEL_NAME)
        self.served.set_pending(None)
        return self.served.snapshot()

    def _test_candidate(self, export: Export, number: int) -> None:
        """On all replicas at a time, each to its end. Raises the first failure."""
        self._clear_candidate()
        self.served.add_candidate(number, export.config)
        self.say(f"testing version {number} on {len(self.replicas)} replica(s)")

        def test(replica: Replica) -> Exception | None:
            report = self.reports[replica.url]
            try:
                start = time.monotonic()
                replica.load(CANDIDATE_NAME)
                report.load_s = round(time.monotonic() - start, 3)
                self._sample(replica, CANDIDATE_NAME, number, export.reference)
            except FAILURES as error:
                report.state, report.error = "failed", str(error)
                return error
            report.state = "candidate_passed"
            return None

        try:
            failures = [error for error in self._on_all(test) if error is not None]
            if failures:
                raise failures[0]
        finally:
            self._clear_candidate(quiet=True)

    def _switch(self, kept: list[int], number: int, reference: Reference) -> list[int]:
        """Has every replica in turn serve `kept`, of which `number` is the newest, and tests it where clients find it.

        Raises the first failure. Returns the older versions that it removed.
        """
        leaving = {replica.url: self._leaving(replica, kept) for replica in self.replicas}
        self.served.serve(kept)
        for replica in self.replicas:
            error = self._switch_one(replica, number, reference)
            if error is not None:
                raise error
        try:
            for replica in self.replicas:
                replica.wait_until_gone(MODEL_NAME, leaving[replica.url], DRAIN_TIMEOUT_S)
            return self.served.prune(kept)
        except (*FAILURES, OSError) as error:
            # No reason to go back: the version answers everywhere, and what went already may be what we would go to.
            self.say(f"older versions may stay until the next deployment: {error}")
            return []

    def _switch_one(self, replica: Replica, number: int, reference: Reference) -> Exception | None:
        """Has one replica read the configuration, and tests `number` where clients find it. Returns what failed."""
        report = self.reports[replica.url]
        try:
            start = time.monotonic()
            replica.load(MODEL_NAME)
            report.load_s = round(time.monotonic() - start, 3)
            self._sample(replica, MODEL_NAME, None, reference, number)
        except FAILURES as error:
            report.state, report.error = "failed", str(error)
            return error
        report.state, report.error = "serving", None
        self.say(f"{replica.url} serves version {number}")
        return None

    def _leaving(self, replica: Replica, kept: list[int]) -> list[int]:
        """The loaded versions that are not kept."""
        states = replica.states(MODEL_NAME)
        return [version for version, state in states.items() if state == "READY" and version not in kept]

    def _sample(
        self,
        replica: Replica,
        model: str,
        version: int | None,
        reference: Reference,
        expected: int | None = None,
    ) -> None:
        """The reference sample, by a real inference. Raises ReplicaError and ReferenceMismatch."""
        report, start = self.reports[replica.url], time.monotonic()
        response = replica.sample(model, version, reference.request)
        report.sample_s = round(time.monotonic() - start, 3)
        if expected is not None and response.metadata.version != str(expected):
            raise ReplicaError(
                f"{replica.url}: answers with version {response.metadata.version}, not {expected}"
            )
        try:
            result = compare(reference.mesh, response.mesh)
        except ReferenceMismatch as error:
            raise ReferenceMismatch(f"{replica.url}: {error}") from None
        report.identical, report.distance = result.identical, result.distance

    def _back_to(self, before: Snapshot, number: int | None, reason: str) -> Report:
        """Has every replica serve what it did before `number`, and removes that."""
        self.say(f"rolling back: {reason}")
        kept = [version for version in before.served if version != number]
        report = Report(ROLLED_BACK, kept[-1] if kept else None, number, reason, attempted_version=number)
        if before.current != number:
            report.previous_version = before.current
        if self.served.snapshot().served != kept:
            self.served.serve(kept)
            restored = self._on_all(lambda replica: self._restore(replica, bool(kept)))
            unrestored = [r.url for r, back in zip(self.replicas, restored, strict=True) if not back]
            if unrestored:
                report.reason = f"{reason}; not restored, restart: {', '.join(unrestored)}"
        if number is not None:
            self.served.remove_version(number)
        return report

    def _restore(self, replica: Replica, anything: bool) -> bool:
        report = self.reports[replica.url]
        try:
            if anything:
                replica.load(MODEL_NAME)
            else:
                replica.unload(MODEL_NAME)
        except ReplicaError as error:
            report.error = report.error or str(error)
            return False
        if report.state != "failed":
            report.state = "restored"
        return True

    def _clear_candidate(self, quiet: bool = False) -> None:
        """Takes the candidate from every replica and the store: what this run, or one that was killed, left."""

        def clear(replica: Replica) -> None:
            try:
                replica.unload(CANDIDATE_NAME)
            except ReplicaError as error:
                if not quiet:
                    self.reports[replica.url].state, self.reports[replica.url].error = "failed", str(error)
                    raise

        self._on_all(clear)
        self.served.remove_candidate()

    def _on_all(self, act: Callable[[Replica], Any]) -> list[Any]:
        """The results, of all replicas at a time. Raises the first error, after all have ended."""
        with ThreadPoolExecutor(len(self.replicas)) as pool:
            return list(pool.map(act, self.replicas))
