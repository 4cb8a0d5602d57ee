"""A training run that takes milliseconds per step: params file, data set, and `get3d train` as a process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from get3d_model.config import Config, ModelConfig, RenderConfig, TrainingConfig, config_to_dict
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.weights import load_tensors
from tests.get3d_model.data.synthetic import make_shapes, write_shard_dataset
from tests.serving.tiny import CONFIG as TINY

BATCH = 4
STEP_KIMG = BATCH / 1000
"""Thousands of images in one step."""
WEIGHT_FILES = ("generator_ema", "generator", "discriminator", "optimizers")


def tiny_config(steps: int, **training: Any) -> Config:
    """R1 at every second step and a moving average: everything that a resumed run could get wrong."""
    settings = {
        "total_kimg": steps * STEP_KIMG,
        "batch_size": BATCH,
        "r1_gamma": 1.0,
        "r1_interval": 2,
        "ema_half_life_kimg": 0.01,
        "checkpoint_interval_kimg": STEP_KIMG,
        "image_interval_kimg": 1.0,
        "log_interval_kimg": STEP_KIMG,
        "validation_images": 0,
        **training,
    }
    return dataclasses.replace(
        TINY,
        training=TrainingConfig(**settings),
        evaluation=EvaluationConfig(
            samples_per_reference=1,
            surface_points=64,
            texture_resolution=64,
            min_samples=1,
            min_references=1,
            bootstrap_resamples=100,
        ),
    )


def write_params(path: Path, config: Config) -> Path:
    path.write_text(yaml.safe_dump(config_to_dict(config)))
    return path


def write_dataset(root: Path) -> Path:
    """Three training shapes and two held out, three views each, 16 px."""
    return write_shard_dataset(root, make_shapes())


def train_command(params: Path, data: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "pipelines.cli", "train",
        "--config", str(params), "--data", str(data), "--out", str(out),
    ]  # fmt: skip


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """One thread, so that several processes do not wait for each other's threads; on the CPU unless told otherwise."""
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
    )  # fmt: skip


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(command, **environment)
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 60.0
) -> None:
    """Fails when the process ends or the time is over before the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def checkpoint_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by file and name."""
    return {
        f"{file}/{name}": tensor
        for file in WEIGHT_FILES
        for name, tensor in load_tensors(folder / f"{file}.safetensors")[0].items()
    }


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Names whose tensors are not the same bit for bit."""
    assert first.keys() == second.keys()
    return [
        name
        for name in first
        if first[name].dtype != second[name].dtype
        or first[name].numpy().tobytes() != second[name].numpy().tobytes()
    ]


def graph_config(**model: Any) -> Config:
    """Small, but with layers of every kind that a GPU records."""
    return Config(
        name="graphs",
        render=RenderConfig(resolution=64),
        model=ModelConfig(
            z_dim=32, w_dim=32, mapping_layers=2, tri_plane_resolution=32, channel_base=1024, channel_max=64,
            tet_res=16, image_resolution=64, discriminator_channel_base=1024, discriminator_channel_max=64,
            num_half_precision_blocks=0, initial_shape=(0.2, 0.15, 0.3), **model,
        ),
        training=TrainingConfig(batch_size=4, r1_interval=2),
    )  # fmt: skip
