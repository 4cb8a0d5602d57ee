"""`get3d train-job` as a process of a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.get3d_model.training.test_elastic import MARK, marked_processes
from tests.get3d_model.training.tiny import BATCH, tiny_config, write_params


class Launcher:
    """`get3d train-job` as a process; its lines as they come."""

    def __init__(self, mark: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "train-job", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, text: str, timeout_s: float = 240.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not any(text in line for line in self.lines):
            assert self.process.poll() is None and time.monotonic() < deadline, "\n".join(self.lines)
            time.sleep(0.02)

    def end(self, timeout_s: float = 300.0) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code


@contextmanager
def marked() -> Iterator[str]:
    """What all processes of a test have in their environment; none outlives it."""
    name = uuid.uuid4().hex
    yield name
    for process in marked_processes(name):
        os.kill(process, signal.SIGKILL)


def gone(mark: str, timeout_s: float = 30.0) -> bool:
    """Whether all processes have ended by themselves."""
    deadline = time.monotonic() + timeout_s
    while marked_processes(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def arguments(tmp_path: Path, data: Path, steps: int, *more: str, **training: float) -> list[str]:
    config = tiny_config(steps, **{"checkpoint_interval_kimg": 5 * BATCH / 1000, **training})
    params = write_params(tmp_path / "params.yaml", config)
    return [
        "--config", str(params), "--data", str(data), "--out", str(tmp_path / "out"), "--procs-per-node", "2", *more,
    ]  # fmt: skip
