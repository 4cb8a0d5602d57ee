"""Requests while they are worked on, and how they are stopped."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from get3d_model.inference import Shapes
from serving.codec import SampleRequest, SampleResponse


class Stopped(Exception):
    """A request whose answer nobody waits for any more. reason: "cancelled" or "timeout"."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Job:
    """One request. is_cancelled: whether its client has gone. time_limit_s: from the start of its batch."""

    rows: Sequence[SampleRequest]
    is_cancelled: Callable[[], bool] = lambda: False
    time_limit_s: float = math.inf


@dataclass
class State:
    """What becomes of a job."""

    job: Job
    deadline: float
    error: BaseException | None = None
    answers: list[SampleResponse | None] = field(default_factory=list)
    _rows_done: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def outcome(self) -> list[SampleResponse] | BaseException:
        """What has become of it, once no row of it is left."""
        return self.answers if self.error is None else self.error

    def row_is_done(self) -> bool:
        """Called once for every row, from any thread; whether it was the last one."""
        # Drawing a number is atomic: `count` is one C call.
        return next(self._rows_done) == len(self.answers)

    def check(self, stage: str) -> None:
        """Raises Stopped, or whatever another row of the job failed with."""
        if self.error is not None:
            raise self.error
        if self.job.is_cancelled():
            raise Stopped("cancelled", f"cancelled by the client before the stage {stage}")
        if time.monotonic() > self.deadline:
            raise Stopped(
                "timeout",
                f"took longer than the limit of {self.job.time_limit_s:g} s (it was before the stage {stage}); ask for "
                "fewer rows, texels or preview frames",
            )


class Share:
    """Worker threads for each row: they are divided among the rows that are not done, so that no core waits for the
    last one. For any thread."""

    def __init__(self, workers: int) -> None:
        self._workers, self._rows = workers, 0
        self._changed = threading.Condition()

    def threads(self) -> int:
        """Threads that a row may use for its next step; at least its own."""
        return max(1, self._workers // max(1, self._rows))

    def begin(self, rows: int) -> None:
        """So many rows have come."""
        with self._changed:
            self._rows += rows

    def done(self) -> None:
        """A row has come to its end."""
        with self._changed:
            self._rows -= 1
            self._changed.notify_all()

    def wait(self, most: int) -> None:
        """Until no more than `most` rows are not done."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows <= most)


@dataclass
class Row:
    """One mesh on its way. shapes: a batch of one, once it is there."""

    state: State
    index: int
    request: SampleRequest
    milliseconds: dict[str, float] = field(default_factory=dict)
    shapes: Shapes | None = None
