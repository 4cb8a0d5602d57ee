"""Several processes of one run, over gloo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.training.checkpoint import list_checkpoints, read_state
from get3d_model.training.distributed import world_from_environment
from tests.get3d_model.training.tiny import (
    checkpoint_tensors,
    start,
    tiny_config,
    train_command,
    wait_until,
    write_params,
)


def launch(
    command: list[str], ranks: Sequence[int] = (0, 1), **environment: str
) -> list[subprocess.Popen[str]]:
    """What torchrun does: two processes that know each other's address. ranks: those that start."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [start(command, RANK=str(rank), LOCAL_RANK=str(rank), **shared, **environment) for rank in ranks]


def finish(processes: list[subprocess.Popen[str]], timeout_s: float = 60.0) -> list[tuple[int, str, str]]:
    try:
        results = [process.communicate(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, results, strict=True)]


def test_two_ranks_train_one_model(tiny_data: Path, tmp_path: Path) -> None:
    """Then afresh with another setting: no rank may miss that the checkpoints are being retired."""
    out, params = tmp_path / "out", tmp_path / "params.yaml"
    script = [sys.executable, "-m", "tests.get3d_model.training.two_ranks"]
    for steps, options in ((2, []), (1, ["--restart-on-change"])):
        write_params(params, tiny_config(steps, seed=steps, checkpoint_interval_kimg=9.0))
        results = finish(launch([*script, str(params), str(tiny_data), str(out), *options]))
        for rank, (code, output, errors) in enumerate(results):
            assert code == 0, errors
            assert f"rank {rank} of 2 done at step {steps}" in output
        (folder,) = list_checkpoints(out)
        assert (read_state(folder).step, read_state(folder).images_seen) == (steps, 4 * steps)
        assert all(torch.isfinite(tensor).all() for tensor in checkpoint_tensors(folder).values())


@pytest.mark.e2e
def test_a_signal_to_one_rank_stops_both(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    params = write_params(tmp_path / "params.yaml", tiny_config(10**6, checkpoint_interval_kimg=1e6))
    processes = launch(train_command(params, tiny_data, out))
    wait_until(
        lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size > 0, processes[0]
    )
    os.kill(processes[1].pid, signal.SIGTERM)
    results = finish(processes)
    assert [code for code, _, _ in results] == [143, 143]
    (folder,) = list_checkpoints(out)
    assert f"saved {folder}" in results[0][2] and "Traceback" not in results[0][2] + results[1][2]
    assert "kimg" in results[0][1] and results[1][1] == "", "rank 0 alone reports"


def test_what_ranks_do_together() -> None:
    results = finish(launch([sys.executable, "-m", "tests.get3d_model.training.collectives"]))
    for rank, (code, output, errors) in enumerate(results):
        assert code == 0, errors
        assert f"rank {rank} checked" in output


@pytest.mark.e2e
def test_a_rank_that_hangs_is_named_and_nobody_waits_for_ever(tiny_data: Path, tmp_path: Path) -> None:
    """Stopped as a whole, threads and all: the worst way to hang."""
    out = tmp_path / "out"
    params = write_params(
        tmp_path / "params.yaml", tiny_config(10**6, checkpoint_interval_kimg=1e6, rank_timeout_s=10.0)
    )
    processes = launch(train_command(params, tiny_data, out))
    wait_until(
        lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size > 0, processes[0]
    )
    os.kill(processes[1].pid, signal.SIGSTOP)
    try:
        _, errors = processes[0].communicate(timeout=30)
    finally:
        processes[1].kill()
    finish(processes[1:])
    assert processes[0].returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("get3d train: ")]
    assert "rank 0: no progress" in line and "still waits for rank 1 (last at: " in line
    assert "Current thread" in errors and "average" in errors, "where it stood"


def test_a_rank_that_never_starts_is_named(tiny_data: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_config(1, rank_timeout_s=1.0))
    command = train_command(params, tiny_data, tmp_path / "out")
    ((code, _, errors),) = finish(launch(command, ranks=[0]))
    assert code == 2
    assert "rank 1 of 2 did not start within 1 s" in errors and "Traceback" not in errors
    ((code, _, errors),) = finish(launch(command, ranks=[1]))
    assert code == 2
    assert "rank 1 does not reach the store of the run at 127.0.0.1:" in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2 does not fit WORLD_SIZE 2"),
        ({"RANK": "one"}, "must be numbers"),
    ],
)
def test_variables_that_do_not_fit(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=expected):
        world_from_environment()
