"""Training on a GPU: a resumed run goes on along the curve of an undisturbed one, and a step does not wait."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from get3d_model.training.distributed import World, fingerprint
from get3d_model.training.gradients import average_gradients
from get3d_model.training.sink import JsonLinesSink
from get3d_model.training.trainer import Trainer
from tests.get3d_model.training.test_distributed import finish, launch
from tests.get3d_model.training.tiny import tiny_config, write_params

STEPS, KILLED_AFTER = 12, 6

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with nvdiffrast"),
]


def curve(out: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    names = [name for name in lines[0] if name.startswith("loss/")]
    return {name: [line[name] for line in lines if name in line] for name in names}


def train(steps: int, data: Path, out: Path) -> None:
    config = tiny_config(steps, checkpoint_interval_kimg=KILLED_AFTER * 0.004)
    trainer = Trainer(config, data, out, World(0, 1, torch.device("cuda", 0)))
    trainer.resume()
    trainer.run([JsonLinesSink(out / "metrics.jsonl", trainer.step)])


def test_a_resumed_run_continues_the_loss_curve(tiny_data: Path, tmp_path: Path) -> None:
    """Not bit for bit: sums of atomics depend on their order. Two undisturbed runs say how far apart is usual."""
    pytest.importorskip("nvdiffrast")
    for name in ("first", "second"):
        train(STEPS, tiny_data, tmp_path / name)
    train(KILLED_AFTER, tiny_data, tmp_path / "resumed")
    train(STEPS, tiny_data, tmp_path / "resumed")
    first, second, resumed = (curve(tmp_path / name) for name in ("first", "second", "resumed"))
    for name, values in first.items():
        usual = max(abs(a - b) for a, b in zip(values, second[name], strict=True))
        scale = max(abs(value) for value in values)
        for one, other in zip(values, resumed[name], strict=True):
            assert abs(one - other) <= max(5 * usual, 0.02 * scale), (
                f"{name}: {values} against {resumed[name]}"
            )


def test_fingerprints_are_those_of_the_cpu() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(300, 70), torch.nn.BatchNorm1d(70))
    value = fingerprint(module)
    assert value == fingerprint(module.cuda()) != 0


def test_gradients_are_averaged_without_waiting_for_the_device() -> None:
    world = World(0, 1, torch.device("cuda", 0))
    parameters = [
        torch.nn.Parameter(torch.zeros(shape, device="cuda")) for shape in ((64, 3, 3, 3), (64,), (5, 7))
    ]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    parameters[1].grad[3] = torch.nan
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        figures = average_gradients(parameters, world)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(figures.replaced) == 1
    assert float(figures.norm) == pytest.approx(2.0 * (64 * 27 + 63 + 35) ** 0.5, rel=1e-5)
    assert parameters[1].grad[3] == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("script", ["collectives", "two_ranks"])
def test_two_gpus_over_nccl(script: str, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvdiffrast")
    command = [sys.executable, "-m", f"tests.get3d_model.training.{script}"]
    if script == "two_ranks":
        command += [
            str(write_params(tmp_path / "p.yaml", tiny_config(3))),
            str(tiny_data),
            str(tmp_path / "out"),
        ]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1")
    for code, _, errors in finish(launch(command, CUDA_VISIBLE_DEVICES=devices), timeout_s=300.0):
        assert code == 0, errors
