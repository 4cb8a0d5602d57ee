"""A run under torchrun that loses a process: it starts again from the last checkpoint and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from get3d_model.training.checkpoint import list_checkpoints
from tests.get3d_model.training.test_distributed import finish, launch
from tests.get3d_model.training.tiny import (
    BATCH,
    checkpoint_tensors,
    differing,
    start,
    tiny_config,
    train_command,
    wait_until,
    write_params,
)

STEPS = 30
MARK = "GET3D_TEST_MARK"


def marked_processes(mark: str) -> dict[int, dict[str, str]]:
    """Environments of the living processes that inherited the mark, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            entries = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # ended, or somebody else's
        environment = dict(entry.decode(errors="replace").partition("=")[::2] for entry in entries if entry)
        if environment.get(MARK) == mark and state != "Z":
            found[int(folder.name)] = environment
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_killed_rank_costs_nothing_beyond_the_last_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(STEPS, checkpoint_interval_kimg=5 * BATCH / 1000, rank_timeout_s=60.0)
    params, out, mark = write_params(tmp_path / "params.yaml", config), tmp_path / "out", uuid.uuid4().hex
    command = train_command(params, tiny_data, out)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "2", *command[1:]]
    job = start(torchrun, **{MARK: mark})
    try:
        wait_until(lambda: len(list_checkpoints(out)) >= 1, job)
        (victim,) = [pid for pid, env in marked_processes(mark).items() if env.get("RANK") == "1"]
        os.kill(victim, signal.SIGKILL)
        output, errors = job.communicate(timeout=120)
    finally:
        for pid in marked_processes(mark):
            os.kill(pid, signal.SIGKILL)
    assert job.returncode == 0, errors
    assert not marked_processes(mark), "no process is left"

    resumed = [line for line in output.splitlines() if line.startswith(f"resuming from {out}")]
    assert len(resumed) == 1, output
    assert f"finished: {out / 'checkpoints' / f'{STEPS * BATCH:09d}'}" in output
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["kimg"] == STEPS * BATCH / 1000

    undisturbed = tmp_path / "undisturbed"
    for code, _, text in finish(launch(train_command(params, tiny_data, undisturbed))):
        assert code == 0, text
    first, second = (list_checkpoints(folder)[-1] for folder in (out, undisturbed))
    assert first.name == second.name
    assert differing(checkpoint_tensors(first), checkpoint_tensors(second)) == []


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent-death signal is Linux's")
def test_a_killed_torchrun_leaves_no_process(tiny_data: Path, tmp_path: Path) -> None:
    """It cannot end its processes any more: they save and end by themselves."""
    config = tiny_config(10**6, checkpoint_interval_kimg=1e6)
    params, out, mark = write_params(tmp_path / "params.yaml", config), tmp_path / "out", uuid.uuid4().hex
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = start([*torchrun, *train_command(params, tiny_data, out)[1:]], **{MARK: mark})
    records = out / "metrics.jsonl"
    try:
        wait_until(lambda: records.exists() and records.stat().st_size > 0, job)
        job.kill()
        job.wait()
        deadline = time.monotonic() + 30.0
        while marked_processes(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not marked_processes(mark)
    finally:
        for pid in marked_processes(mark):
            os.kill(pid, signal.SIGKILL)
        output, errors = job.communicate()
    assert len(list_checkpoints(out)) == 1, output + errors
