"""The served model repository: which versions lie in it, which of them Triton is told to serve, and what happened before.

    get3d/config.pbtxt      serves a list of versions; requests that name none get the highest
    get3d/<version>/        as exported, with the configuration it was exported with; never changes
    get3d_candidate/        a version that is being tested; only while a roll-out runs
    deploy_state.json       numbers given out, the switch that is being made, and the latest roll-outs

The configuration is the only switch: whoever starts a server at any time gets what was last found good.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.deploy.store import Store
from get3d_model.errors import InputError
from serving.codec import MODEL_NAME
from serving.model_config import served_versions, with_served_versions
from serving.reference import REFERENCE_FILE, REFERENCE_MESH_FILE, Reference, parse_reference
from serving.repository import CARD_FILE, CONFIG_FILE, version_numbers

CANDIDATE_NAME = f"{MODEL_NAME}_candidate"
STATE_FILE = "deploy_state.json"
KEPT_HISTORY = 100
CONFIG = f"{MODEL_NAME}/{CONFIG_FILE}"


@dataclass(frozen=True)
class Snapshot:
    """config: None where nothing has been deployed. served: versions, ascending; the last one is the current one."""

    config: str | None
    served: list[int]

    @property
    def current(self) -> int | None:
        return self.served[-1] if self.served else None

    @property
    def previous(self) -> int | None:
        return self.served[-2] if len(self.served) > 1 else None


@dataclass(frozen=True)
class Pending:
    """action: "deploy" or "rollback", to `version`."""

    action: str
    version: int


class ServedRepository:
    """Reads and changes a served repository; whoever changes it holds the store's lock. Raises InputError."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def snapshot(self) -> Snapshot:
        content = self.store.read(CONFIG)
        if content is None:
            return Snapshot(None, [])
        try:
            return Snapshot(content.decode(), served_versions(content.decode(), self.versions()))
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"{self.store.location}/{CONFIG}: {error}") from None

    def versions(self) -> list[int]:
        """The whole versions that lie here, ascending."""
        return [
            number
            for number in version_numbers(self.store.folders(MODEL_NAME))
            if self.card(number) is not None
        ]

    def card(self, version: int) -> bytes | None:
        """The model card, which tells two versions apart."""
        return self.store.read(f"{MODEL_NAME}/{version}/{CARD_FILE}")

    def holds(self, version: int | None, card: bytes, config: str) -> bool:
        """Whether the version is what was exported with this card and configuration."""
        if version is None or self.card(version) != card:
            return False
        own = self.store.read(f"{MODEL_NAME}/{version}/{CONFIG_FILE}")
        # None: not deployed by us, or its upload was killed just before its end.
        return own is None or own == config.encode()

    def reference(self, version: int) -> Reference:
        folder = f"{MODEL_NAME}/{version}"
        texts = [self.store.read(f"{folder}/{name}") for name in (REFERENCE_FILE, REFERENCE_MESH_FILE)]
        if None in texts:
            raise InputError(
                f"{self.store.location}/{folder}: holds no reference sample; export the model again"
            )
        return parse_reference(f"{self.store.location}/{folder}", *texts)

    def add_version(self, folder: Path, exported: int, config: str) -> int:
        """Uploads a version beside the others, unless it lies there from an earlier attempt; returns its number.

        The exported number where that is still free and the highest, else the next: numbers are never used again.
        """
        card, current = (folder / CARD_FILE).read_bytes(), self.snapshot().current or 0
        for number in self.versions():
            if number > current and self.holds(number, card, config):
                self._add_config(number, config)
                return number
        number = max(exported, self._state()["last_version"] + 1, *(v + 1 for v in self.versions()))
        # Before the upload, so that no other content ever gets this number.
        self._change_state(last_version=number)
        self.store.upload(folder, f"{MODEL_NAME}/{number}")
        self._add_config(number, config)
        return number

    def remove_version(self, version: int) -> None:
        self.store.remove(f"{MODEL_NAME}/{version}")

    def add_candidate(self, version: int, config: str) -> None:
        """Makes the version a model of its own, which no client asks for."""
        self.store.copy(f"{MODEL_NAME}/{version}", f"{CANDIDATE_NAME}/{version}")
        candidate = with_served_versions(config, [version], CANDIDATE_NAME)
        self.store.write(f"{CANDIDATE_NAME}/{CONFIG_FILE}", candidate.encode())

    def remove_candidate(self) -> None:
        self.store.remove(CANDIDATE_NAME)

    def serve(self, versions: list[int]) -> None:
        """The switch, to these versions under the configuration of the newest; none: nothing is served any more."""
        if not versions:
            self.store.remove(CONFIG)
            return
        # Versions that were not deployed by us have none of their own.
        content = self.store.read(f"{MODEL_NAME}/{max(versions)}/{CONFIG_FILE}") or self.store.read(CONFIG)
        if content is None:
            raise InputError(f"{self.store.location}/{CONFIG}: is missing; deploy a version")
        self.store.write(CONFIG, with_served_versions(content.decode(), versions).encode())

    def prune(self, served: list[int]) -> list[int]:
        """Removes the other versions; returns them."""
        others = [version for version in self.versions() if version not in served]
        for version in others:
            self.remove_version(version)
        return others

    def pending(self) -> Pending | None:
        """The switch that a run which was killed was making."""
        return self._state()["pending"]

    def set_pending(self, pending: Pending | None) -> None:
        self._change_state(pending=pending)

    def record(self, event: dict[str, Any], settled: bool) -> None:
        """Adds to the history. settled: nothing is pending any more; both are one write, so that no kill parts them."""
        stamped = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **event}
        values: dict[str, Any] = {"history": [*self._state()["history"], stamped][-KEPT_HISTORY:]}
        self._change_state(**values, **({"pending": None} if settled else {}))

    def _add_config(self, version: int, config: str) -> None:
        self.store.write(f"{MODEL_NAME}/{version}/{CONFIG_FILE}", config.encode())

    def _state(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"last_version": 0, "pending": None, "history": []}
        content = self.store.read(STATE_FILE)
        if content is None:
            return empty
        try:
            state = {**empty, **json.loads(content)}
            state["pending"] = Pending(**state["pending"]) if state["pending"] else None
            state["history"], state["last_version"] = list(state["history"]), int(state["last_version"])
            return state
        except (ValueError, TypeError):
            raise InputError(f"{self.store.location}/{STATE_FILE}: is damaged; remove it") from None

    def _change_state(self, **values: Any) -> None:
        state = {**self._state(), **values}
        state["pending"] = asdict(state["pending"]) if state["pending"] else None
        self.store.write(STATE_FILE, (json.dumps(state, indent=2, sort_keys=True) + "\n").encode())
