"""Following a job: lines, progress, limits and the reason of a failure, with jobs that are scripts of the test."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from components.train.follow import (
    JobCancelled,
    JobFailed,
    JobState,
    Limits,
    LogBook,
    Phase,
    caught_signals,
    follow,
)

# What torchrun 2.13 wrote when rank 1 of 2 was killed and rank 0 failed after it, shortened.
REPORT = """\
E1121 14:38:05.508000 15498 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -9)
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
components.train.rank FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-21_14:37:33
  host      : localhost
  rank      : 6 (local_rank: 0)
  exitcode  : 1 (pid: 15330)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_14:37:31
  host      : localhost
  rank      : 7 (local_rank: 1)
  exitcode  : -9 (pid: 15331)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 15331
============================================================"""


class Script:
    """A job whose states follow a list, the last one for ever; its lines come at once."""

    name = "job-1"

    def __init__(self, states: list[JobState], lines: dict[int, list[str]]) -> None:
        self.states, self.lines, self.nodes = list(states), lines, max(len(lines), 1)
        self.cancelled = self.ended = False

    def state(self) -> JobState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def log(self, node: int, over: threading.Event) -> Iterator[str]:
        yield from self.lines.get(node, [])

    def cancel(self) -> None:
        self.cancelled = True

    def end_rest(self) -> None:
        self.ended = True


def run(job: Script, caught: list[int] | None = None, **limits: float) -> list[str]:
    written: list[str] = []
    try:
        follow(job, Limits(**{"schedule_s": 5.0, "poll_s": 0.001, **limits}), written.append, caught or [])
    finally:
        job.written = written
    return written


PENDING, RUNNING = JobState(Phase.PENDING, "no GPU is free", 1), JobState(Phase.RUNNING, nodes=2)
SUCCEEDED, FAILED = JobState(Phase.SUCCEEDED), JobState(Phase.FAILED, "pod a: Evicted")


def test_lines_are_named_by_rank_and_progress_is_told() -> None:
    job = Script(
        [PENDING, PENDING, RUNNING, SUCCEEDED],
        {
            0: [
                "[1]:before it says who it is",
                "[0]:this is rank 4 of 8 (node 1, local rank 0)",
                "[0]:four",
                "of torchrun itself",
            ],
            1: [
                "[0]:this is rank 0 of 8 (node 0, local rank 0)",
                "[0]:kimg 0.10/1.00  sec/kimg 3.0  ETA 0:01:00  G 1.0",
                "[0]:kimg 0.11/1.00  sec/kimg 3.0  ETA 0:00:58  G 1.0",
                "[0]:kimg 1.00/1.00  sec/kimg 3.0  ETA 0:00:00  G 1.0",
            ],
        },
    )
    written = run(job)
    assert "job job-1: pending, 1 of 2 nodes run: no GPU is free" in written
    assert written.count("job job-1: pending, 1 of 2 nodes run: no GPU is free") == 1
    assert "[node 0.1] before it says who it is" in written
    assert "[rank 4] four" in written and "[node 0] of torchrun itself" in written
    assert [line for line in written if line.startswith("progress")] == [
        "progress: 10% (kimg 0.10 of 1.00), ETA 0:01:00",
        "progress: 100% (kimg 1.00 of 1.00), ETA 0:00:00",
    ]
    assert written[-1] == "job job-1: succeeded" and not job.cancelled


def test_the_rank_that_failed_first_is_named_with_its_last_lines() -> None:
    lines = ["[1]:this is rank 7 of 8 (node 1, local rank 1)", *[f"[1]:line {i}" for i in range(50)]]
    job = Script([RUNNING, FAILED], {0: ["[0]:innocent"], 1: [*lines, *REPORT.splitlines()]})
    with pytest.raises(JobFailed) as error:
        run(job)
    assert str(error.value) == (
        "job job-1 failed (pod a: Evicted): rank 7 on node 1, killed by SIGKILL: line 49"
    )
    shown = job.written[job.written.index("last lines of rank 7 on node 1, killed by SIGKILL:") + 1 :]
    assert shown[0] == "    line 30" and shown[-1] == "    line 49" and job.ended


def test_the_earliest_of_several_reports_counts() -> None:
    later = REPORT.replace("14:37:31", "14:37:40").replace(
        "rank      : 7 (local_rank: 1)", "rank      : 0 (local_rank: 0)"
    )
    book = LogBook(lambda line: None)
    for node, report in ((0, later), (1, REPORT)):
        for line in report.splitlines():
            book.add(node, line)
    assert "rank 7 on node 1, killed by SIGKILL" in str(book.explain("j", ""))


def test_what_training_said_is_the_message() -> None:
    book = LogBook(lambda line: None)
    book.add(0, "[0]:this is rank 2 of 4 (node 1, local rank 0)")
    book.add(0, "[0]:get3d train: the data set is empty; render it")
    book.add(0, "[0]:something after it")
    assert str(book.explain("j", "")) == "job j failed: rank 2 on node 0: the data set is empty; render it"
    silent = LogBook(lambda line: None)
    assert str(silent.explain("j", "OOMKilled")) == "job j failed before it wrote anything (OOMKilled)"


def test_a_job_that_never_starts_ends_with_the_reason() -> None:
    job = Script([PENDING], {0: []})
    with pytest.raises(
        JobFailed, match=r"not scheduled within 0.05 s and is cancelled: no GPU is free; free res"
    ):
        run(job, schedule_s=0.05)
    assert job.cancelled


def test_a_node_that_is_lost_later_has_the_same_time_to_come_back() -> None:
    job = Script([RUNNING, *[PENDING] * 5, RUNNING, *[PENDING] * 5, SUCCEEDED], {0: []})
    assert run(job, schedule_s=1.0)[-1] == "job job-1: succeeded"


def test_a_job_that_takes_too_long_is_cancelled() -> None:
    job = Script([RUNNING], {0: []})
    with pytest.raises(JobFailed, match=r"did not end within 0.05 s"):
        run(job, total_s=0.05)
    assert job.cancelled


def test_a_signal_cancels_the_job() -> None:
    job, caught = Script([RUNNING], {0: []}), []
    with caught_signals(caught):
        threading.Timer(0.05, lambda: signal.raise_signal(signal.SIGTERM)).start()
        with pytest.raises(JobCancelled, match="SIGTERM: cancelled job job-1") as error:
            follow(job, Limits(5.0, poll_s=0.01), lambda line: None, caught)
    assert job.cancelled and error.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_log_that_cannot_be_read_ends_nothing() -> None:
    job = Script([RUNNING, SUCCEEDED], {0: []})
    job.log = lambda node, over: (_ for _ in ()).throw(RuntimeError("gone"))
    assert any(
        "the log of node 0 cannot be read any further: RuntimeError('gone')" in line for line in run(job)
    )
