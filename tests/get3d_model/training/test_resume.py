"""`get3d train` as people run it: killed, interrupted, resumed, changed. One process per run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from get3d_model.training.checkpoint import list_checkpoints, read_state
from tests.get3d_model.training.tiny import (
    BATCH,
    checkpoint_tensors,
    differing,
    run,
    start,
    tiny_config,
    train_command,
    wait_until,
    write_params,
)

STEPS = 24
"""Far enough from the kill at step 3, however slowly this process notices the checkpoint."""
ENDLESS = 10**6


def newest_step(out: Path) -> int:
    folders = list_checkpoints(out)
    return read_state(folders[-1]).step if folders else 0


def records(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The output of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    params = write_params(folder / "params.yaml", tiny_config(STEPS))
    finished = run(train_command(params, tiny_data, folder / "out"))
    assert finished.returncode == 0, finished.stderr
    return folder / "out"


def test_killed_and_resumed_equals_undisturbed(straight: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    params = write_params(tmp_path / "params.yaml", tiny_config(ENDLESS))
    process = start(train_command(params, tiny_data, out))
    wait_until(lambda: newest_step(out) >= 3, process)
    process.kill()
    process.communicate()
    killed_at = newest_step(out)
    assert 3 <= killed_at < STEPS
    for folder in list_checkpoints(out):
        assert len(checkpoint_tensors(folder)) > 100

    write_params(params, tiny_config(STEPS))
    resumed = run(train_command(params, tiny_data, out))
    assert resumed.returncode == 0, resumed.stderr
    assert f"at kimg {killed_at * BATCH / 1000:.2f}" in resumed.stdout
    last = list_checkpoints(straight)[-1]
    assert list_checkpoints(out)[-1].name == last.name == f"{STEPS * BATCH:09d}"
    assert differing(checkpoint_tensors(out / "checkpoints" / last.name), checkpoint_tensors(last)) == []
    losses = [{k: v for k, v in r.items() if k.startswith(("step", "loss/"))} for r in records(out)]
    assert losses == [
        {k: v for k, v in r.items() if k.startswith(("step", "loss/"))} for r in records(straight)
    ]
    leftovers = {path.name for path in (out / "checkpoints").iterdir()} - {
        f.name for f in list_checkpoints(out)
    }
    assert not leftovers, "what the killed run half wrote stays for ever"


def test_what_a_run_leaves(straight: Path) -> None:
    lines = records(straight)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all({"kimg", "sec_per_kimg"} <= line.keys() for line in lines)
    assert [line["kimg"] for line in lines] == pytest.approx([BATCH * s / 1000 for s in range(1, STEPS + 1)])
    assert all(line["sec_per_kimg"] > 0 for line in lines)
    assert [("loss/r1" in line) for line in lines] == [step % 2 == 0 for step in range(STEPS)]
    assert all(line["gradients/generator_norm"] > 0 < line["gradients/discriminator_norm"] for line in lines)
    assert [("gradients/r1_norm" in line) for line in lines] == [step % 2 == 0 for step in range(STEPS)]
    assert {line["gradients/replaced_count"] for line in lines} == {0.0}
    assert len(list(straight.glob("tensorboard/events.*"))) == 1
    assert len(list_checkpoints(straight)) == 2
    names = sorted(path.name for path in (straight / "images").iterdir())
    assert names == ["fakes_000000000.png", f"fakes_{STEPS * BATCH:09d}.png", "reals.png"]
    for name in names:
        picture = np.asarray(Image.open(straight / "images" / name))
        assert picture.shape == (4 * 16, 8 * 16, 3)
        assert picture.std() > 5, f"{name} shows nothing"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(
    number: signal.Signals, code: int, tiny_data: Path, tmp_path: Path
) -> None:
    """No checkpoint is due, so the one that is there was written because of the signal."""
    out = tmp_path / "out"
    config = tiny_config(ENDLESS, checkpoint_interval_kimg=1e6)
    process = start(train_command(write_params(tmp_path / "params.yaml", config), tiny_data, out))
    wait_until(lambda: (out / "metrics.jsonl").exists() and len(records_so_far(out)) >= 2, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    (folder,) = list_checkpoints(out)
    assert errors == f"get3d train: interrupted by {number.name}; saved {folder}, run again to resume\n"
    assert read_state(folder).step == records(out)[-1]["step"] >= 2
    assert len(checkpoint_tensors(folder)) > 100


def records_so_far(out: Path) -> list[str]:
    return (out / "metrics.jsonl").read_text().splitlines()
