"""Follows a training job, wherever it runs: every rank's log lines, progress, the end, and why."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from components.train.rank import ERROR_PREFIX
from get3d_model.errors import InputError
from monitoring.logs import plain

TAIL_LINES = 20
"""Lines of the failing rank that are shown again at the end."""
_PROGRESS_STEP = 0.05
# torchrun puts the local rank before every line of its processes; its own lines have none.
_RANK_LINE = re.compile(r"\[(\d+)\]:(.*)", re.DOTALL)
_IDENTITY = re.compile(r"this is rank (\d+) of (\d+) \(node \d+, local rank (\d+)\)")
_KIMG = re.compile(r"kimg ([\d.]+)/([\d.]+).*?ETA ([\d:]+)")
# Of torchrun's report of a failure, in which lines that look like a process's are its own.
_REPORT_BEGINS = "Failures:"
_REPORT_ENDS = re.compile(r"={20,}")
_ROOT_CAUSE = "Root Cause (first observed failure):"
_FAILED_AT = re.compile(r"\s*time\s*: (\S+)")
_FAILED_RANK = re.compile(r"\s*rank\s*: (\d+) \(local_rank: (\d+)\)")
_EXIT_CODE = re.compile(r"\s*exitcode\s*: (-?\d+)")


class Phase(Enum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class JobState:
    """phase: RUNNING once all nodes run. reason: why it is pending or failed, for people. nodes: how many run."""

    phase: Phase
    reason: str = ""
    nodes: int = 0

    @property
    def over(self) -> bool:
        return self.phase in (Phase.SUCCEEDED, Phase.FAILED)


class Job(Protocol):
    """A submitted job. name: for people. nodes: pods, or torchruns on this machine."""

    name: str
    nodes: int

    def state(self) -> JobState: ...

    def log(self, node: int, over: threading.Event) -> Iterator[str]:
        """The lines of a node as they come, of all its attempts, until its end or, with nothing more to read, `over`."""
        ...

    def cancel(self) -> None:
        """Ends the job with a SIGTERM to its processes, and returns when they are gone or the time for that is over."""
        ...

    def end_rest(self) -> None:
        """After a failure: ends what of the job is left."""
        ...


class JobFailed(InputError):
    """The job ended badly; the message names the rank and its last words."""


class JobCancelled(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived here; the job was ended. `signal_number` says which."""

    def __init__(self, signal_number: int, name: str) -> None:
        super().__init__(
            f"{signal.Signals(signal_number).name}: cancelled job {name}; it saved its state if it was training, "
            "run again to resume"
        )
        self.signal_number = signal_number


@dataclass(frozen=True)
class Limits:
    """schedule_s: how long the job may wait until all its nodes run. total_s: until its end; None: no limit."""

    schedule_s: float
    total_s: float | None = None
    poll_s: float = 2.0
    drain_s: float = 15.0
    """How long the last log lines may take to arrive after the end."""


@dataclass(frozen=True)
class Failure:
    """rank, local_rank, exit_code: of the process that failed first, by torchrun's own record."""

    at: str
    node: int
    rank: int
    local_rank: int
    exit_code: int


class LogBook:
    """Prints the lines of all nodes, and remembers what the end of the job will need. Used by a thread per node."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._ranks: dict[tuple[int, int], int] = {}
        self._tails: dict[tuple[int, int | None], deque[str]] = {}
        self._reports: set[int] = set()
        self._summary: dict[int, dict[str, str]] = {}
        self.failures: list[Failure] = []
        self.share = 0.0
        """Of the images that the run is to see."""
        self._told = 0.0
        self._errors: dict[tuple[int, int | None], str] = {}

    def add(self, node: int, line: str) -> None:
        """line: without its line end. Of a record (`monitoring.logs`) people see the message."""
        line = plain(line)
        with self._lock:
            match = _RANK_LINE.fullmatch(line)
            if match is None or node in self._reports:
                self._agent_line(node, line)
                return
            local_rank, text = int(match[1]), match[2]
            identity = _IDENTITY.search(text)
            if identity:
                self._ranks[node, local_rank] = int(identity[1])
            self._keep((node, local_rank), text)
            rank = self._ranks.get((node, local_rank))
            self._write(f"[node {node}.{local_rank}] {text}" if rank is None else f"[rank {rank}] {text}")
            if rank == 0:
                self._progress(text)

    def _agent_line(self, node: int, line: str) -> None:
        self._keep((node, None), line)
        self._write(f"[node {node}] {line}")
        if line == _REPORT_BEGINS:
            self._reports.add(node)
        elif node in self._reports and _REPORT_ENDS.fullmatch(line):
            self._reports.discard(node)
        if _ROOT_CAUSE in line:
            self._summary[node] = {}
        elif node in self._summary:
            found = self._summary[node]
            for key, pattern in (("at", _FAILED_AT), ("rank", _FAILED_RANK), ("code", _EXIT_CODE)):
                match = pattern.fullmatch(line) or pattern.match(line)
                if match and key not in found:
                    found[key] = match[1]
                    if key == "rank":
                        found["local"] = match[2]
            if found.keys() >= {"at", "rank", "code"}:
                del self._summary[node]
                self.failures.append(
                    Failure(found["at"], node, int(found["rank"]), int(found["local"]), int(found["code"]))
                )

    def _keep(self, key: tuple[int, int | None], text: str) -> None:
        self._tails.setdefault(key, deque(maxlen=TAIL_LINES)).append(text)
        if text.startswith(ERROR_PREFIX):
            self._errors[key] = text.removeprefix(ERROR_PREFIX)

    def _progress(self, text: str) -> None:
        match = _KIMG.search(text)
        if match is None or not float(match[2]):
            return
        self.share = float(match[1]) / float(match[2])
        if self.share >= self._told + _PROGRESS_STEP or self.share == 1.0 > self._told:
            self._told = self.share
            self._write(f"progress: {self.share:.0%} (kimg {match[1]} of {match[2]}), ETA {match[3]}")

    def explain(self, name: str, reason: str) -> JobFailed:
        """Prints the last lines of what failed first; the error to raise."""
        with self._lock:
            reason = f" ({reason})" if reason else ""
            if self.failures:
                first = min(self.failures, key=lambda failure: failure.at)
                key: tuple[int, int | None] = (first.node, first.local_rank)
                who = f"rank {first.rank} on node {first.node}, {_exit_text(first.exit_code)}"
            elif self._errors:
                key = next(iter(self._errors))
                who = (
                    f"node {key[0]}"
                    if key[1] is None
                    else f"rank {self._ranks.get(key, key[1])} on node {key[0]}"
                )
            else:
                nodes = sorted({key[0] for key in self._tails})
                if not nodes:
                    return JobFailed(f"job {name} failed before it wrote anything{reason}")
                key, who = (nodes[0], None), f"node {nodes[0]}"
            tail = list(self._tails.get(key, []))
            error = self._errors.get(key)
            if tail:
                self._write(f"last lines of {who}:")
                for line in tail:
                    self._write(f"    {line}")
            said = error or next((line for line in reversed(tail) if line.strip()), "it wrote nothing")
            return JobFailed(f"job {name} failed{reason}: {who}: {said.strip()}")


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@contextmanager
def caught_signals(caught: list[int]) -> Iterator[None]:
    """Adds SIGINT and SIGTERM to the list instead of ending the process; a second one is not caught."""
    previous: dict[int, object] = {}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def follow(job: Job, limits: Limits, write: Callable[[str], None], caught: list[int]) -> None:
    """Returns when the job has succeeded.

    write: prints a line. caught: of `caught_signals`.
    Raises JobFailed, also when the job is not scheduled in time or takes too long, and then ends it;
    JobCancelled after a signal.
    """
    over, book = threading.Event(), LogBook(write)
    readers = [
        threading.Thread(
            target=_read, args=(job, node, over, book, write), name=f"get3d-log-{node}", daemon=True
        )
        for node in range(job.nodes)
    ]
    for reader in readers:
        reader.start()
    try:
        state = _watch(job, limits, write, caught)
        if state.phase is Phase.FAILED:
            job.end_rest()
    finally:
        over.set()
        deadline = time.monotonic() + limits.drain_s
        for reader in readers:
            reader.join(max(0.0, deadline - time.monotonic()))
    write(f"job {job.name}: {state.phase.value}{f': {state.reason}' if state.reason else ''}")
    if state.phase is Phase.FAILED:
        raise book.explain(job.name, state.reason)


def _read(job: Job, node: int, over: threading.Event, book: LogBook, write: Callable[[str], None]) -> None:
    try:
        for line in job.log(node, over):
            book.add(node, line)
    except Exception as error:
        write(f"the log of node {node} cannot be read any further: {error!r}")


def _watch(job: Job, limits: Limits, write: Callable[[str], None], caught: list[int]) -> JobState:
    started, told = time.monotonic(), None
    waiting_since: float | None = started
    while True:
        state = job.state()
        now = time.monotonic()
        if state.over:
            return state
        if state != told:
            told = state
            running = f", {state.nodes} of {job.nodes} nodes run" if state.phase is Phase.PENDING else ""
            write(
                f"job {job.name}: {state.phase.value}{running}{f': {state.reason}' if state.reason else ''}"
            )
        if caught:
            write(f"{signal.Signals(caught[0]).name}: cancelling job {job.name}")
            job.cancel()
            raise JobCancelled(caught[0], job.name)
        if state.phase is Phase.RUNNING:
            waiting_since = None
        elif waiting_since is None:
            waiting_since = now
        if waiting_since is not None and now - waiting_since > limits.schedule_s:
            job.cancel()
            raise JobFailed(
                f"job {job.name} was not scheduled within {limits.schedule_s:g} s and is cancelled: "
                f"{state.reason or 'the cluster gives no reason'}; free resources, change the cluster profile, or "
                "raise --schedule-timeout-s"
            )
        if limits.total_s is not None and now - started > limits.total_s:
            job.cancel()
            raise JobFailed(
                f"job {job.name} did not end within {limits.total_s:g} s and is cancelled; it saved its state, run "
                "again to resume, with a higher --timeout-s"
            )
        wait_until = now + limits.poll_s
        while not caught and time.monotonic() < wait_until:
            time.sleep(min(0.1, limits.poll_s))
