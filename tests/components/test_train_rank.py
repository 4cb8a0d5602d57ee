"""What a process of a training job does beside training. The trainer is replaced; the jobs in test_train_job.py have it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.train import output_lock, rank
from get3d_model.errors import InputError

ARGUMENTS = ["--config", "params.yaml", "--data", "d", "--out", "o"]


@pytest.fixture(autouse=True)
def no_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the tests keeps its own relation to its parent."""
    monkeypatch.setattr(rank, "end_with_torchrun", lambda: None)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The content of the params file of every training."""
    seen: list[str] = []

    def run(args):
        seen.append(args.config.read_text() if args.config.exists() else "")

    monkeypatch.setattr(rank, "run", run)
    return seen


def test_it_says_who_it_is_and_takes_the_params_along(
    trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("GROUP_RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(rank.PARAMS, '{"name": "x"}')
    assert rank.main(ARGUMENTS) == 0
    assert trained == ['{"name": "x"}']
    assert capsys.readouterr().out == "this is rank 5 of 8 (node 1, local rank 1)\n"


def attempt(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> int:
    path = folder / f"attempt_{number}" / "0" / "error.json"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return rank.main(ARGUMENTS)


def test_the_same_error_of_the_input_is_tried_twice_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def run(args):
        calls.append("x")
        raise InputError(error)

    monkeypatch.setattr(rank, "run", run)
    error = "first"
    assert attempt(monkeypatch, tmp_path, 0) == 2
    error = "second"
    assert attempt(monkeypatch, tmp_path, 1) == 2
    assert attempt(monkeypatch, tmp_path, 2) == 2
    assert len(calls) == 3
    capsys.readouterr()
    assert [attempt(monkeypatch, tmp_path, number) for number in (3, 4)] == [2, 2]
    assert len(calls) == 3
    assert capsys.readouterr().err == "get3d train: second\n" * 2


def test_a_launcher_that_is_gone(trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    identity = rank.process_identity(dead.pid)
    dead.wait()
    monkeypatch.setenv(rank.LAUNCHER, identity or f"{dead.pid}:0")
    assert rank.main(ARGUMENTS) == 1 and trained == []
    assert killed == [(os.getppid(), signal.SIGTERM)]
    # Its process id may belong to another process by now.
    monkeypatch.setenv(rank.LAUNCHER, f"{os.getpid()}:1")
    assert rank.main(ARGUMENTS) == 1
    monkeypatch.setenv(rank.LAUNCHER, rank.process_identity(os.getpid()) or "")
    assert rank.main(ARGUMENTS) == 0 and len(trained) == 1


def test_a_new_launcher_is_not_disturbed(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = output_lock.lock_path(tmp_path / "out")
    assert path == tmp_path / ".out.train-job.lock"
    monkeypatch.setenv(output_lock.LOCK, str(path))
    with open(path, "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert rank.main(ARGUMENTS) == 1 and trained == []
        fcntl.flock(other, fcntl.LOCK_SH)
        assert rank.main(ARGUMENTS) == 0


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's"
)
def test_it_ends_when_torchrun_is_killed(tmp_path: Path) -> None:
    child = (
        "import os, time; from components.train.torchrun import end_with_torchrun; end_with_torchrun();"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    process = int(parent.stdout.readline())
    assert rank.process_identity(process)
    parent.kill()
    deadline = time.monotonic() + 10
    while rank.process_identity(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert rank.process_identity(process) is None
