"""`get3d train-job` on this machine: real processes, from the command to the last checkpoint. More in tests/e2e."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from get3d_model.training.checkpoint import list_checkpoints, read_state
from tests.components.train_launcher import Launcher, arguments, gone, marked

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@pytest.fixture
def mark() -> Iterator[str]:
    with marked() as name:
        yield name


@pytest.mark.e2e
def test_sigterm_saves_and_the_same_command_goes_on(tiny_data: Path, tmp_path: Path, mark: str) -> None:
    """Preemption: the launcher is told to end, all ranks save the step they are in, and nothing is left."""
    out = tmp_path / "out"
    first = Launcher(mark, *arguments(tmp_path, tiny_data, 4000, checkpoint_interval_kimg=1000.0))
    first.wait_for("kimg 0.0")
    assert not list_checkpoints(out)
    sent = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    assert first.end() == 143, "\n".join(first.lines)
    assert time.monotonic() - sent < 60, "within the grace period"
    (saved,) = list_checkpoints(out)
    assert f"[rank 0] get3d train: interrupted by SIGTERM; saved {saved}, run again to resume" in first.lines
    assert first.lines[-1].startswith("get3d train-job: SIGTERM: cancelled job get3d-train-")
    assert gone(mark, 5)
    step = read_state(saved).step
    second = Launcher(mark, *arguments(tmp_path, tiny_data, step + 3, checkpoint_interval_kimg=1000.0))
    assert second.end() == 0, "\n".join(second.lines)
    assert any(line.startswith(f"[rank 0] resuming from {saved}") for line in second.lines)
    assert read_state(list_checkpoints(out)[-1]).step == step + 3
    assert any(line.startswith("progress: 100%") for line in second.lines)
    assert second.lines[-1].endswith(": succeeded")


def test_dry_run_starts_nothing(tiny_data: Path, tmp_path: Path, mark: str) -> None:
    job = Launcher(
        mark, *arguments(tmp_path, tiny_data, 5, "--nodes", "2", "--procs-per-node", "1", "--dry-run")
    )
    assert job.end() == 0
    assert "--nnodes 2 --nproc_per_node 1" in "".join(line.strip(" '\"") for line in job.lines).replace(
        "''", ""
    )
    assert not (tmp_path / "out").exists()
