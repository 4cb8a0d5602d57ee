"""A tiny model that the published implementation could hold, its checkpoint, and a grid that is not ours."""

from __future__ import annotations

import dataclasses
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

from get3d_model.bundle import Parts, save_bundle
from get3d_model.config import Config, config_to_dict
from get3d_model.generator import build_generator
from get3d_model.networks.discriminator import Discriminator
from tests.get3d_model.training.tiny import tiny_config

KIMG = 12.5


def plain_config(steps: int = 1) -> Config:
    """Without what only our model has."""
    config = tiny_config(steps)
    model = dataclasses.replace(config.model, initial_shape=None)
    training = dataclasses.replace(config.training, ema_rampup=None)
    return dataclasses.replace(config, model=model, training=training)


def random_parts(config: Config, seed: int = 0) -> Parts:
    """Three state dictionaries with nothing at its initial value."""
    model = config.model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        modules = {
            "G_ema": build_generator(model),
            "G": build_generator(model),
            "D": Discriminator(
                model.image_resolution, model.discriminator_channel_base, model.discriminator_channel_max
            ),
        }
        return {
            part: {name: t + 0.1 * torch.randn_like(t) for name, t in module.state_dict().items()}
            for part, module in modules.items()
        }


def write_bundle(path: Path, config: Config, half: bool = False, seed: int = 0) -> Parts:
    parts = random_parts(config, seed)
    save_bundle(parts, path, {"config": config_to_dict(config), "kimg": KIMG}, half)
    return parts


def kuhn_grid(cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Every cube of a regular grid cut into six tetrahedra along its diagonal; of either orientation.

    (vertices float32 in [-0.5, 0.5], tets int64).
    """
    steps = np.stack(np.meshgrid(*[np.arange(cells + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    strides = np.array([(cells + 1) ** 2, cells + 1, 1])
    origins = steps[(steps < cells).all(axis=1)] @ strides
    tets = [
        np.stack([origins + sum(strides[axis] for axis in order[:k]) for k in range(4)], axis=1)
        for order in permutations(range(3))
    ]
    return (steps / cells - 0.5).astype(np.float32), np.concatenate(tets)
