"""Rebuilds the weights and inputs behind the reference arrays (see the end of the model's specification)."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn


def _generator(salt: str, name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32((salt + name).encode()))


def seeded_normal(salt: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return _generator(salt, name).standard_normal(shape).astype(np.float32)


def seeded_uniform(salt: str, name: str, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    return _generator(salt, name).uniform(low, high, shape).astype(np.float32)


def reference_weight(salt: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    value = seeded_normal(salt, name, shape)
    if name.endswith(("noise_strength", "w_avg")):
        value = value * 0.1
    elif name.endswith("affine.bias"):
        value = 1 + 0.1 * value
    elif name.endswith("bias"):
        value = 0.1 * value
    elif "mapping" in name and ".fc" in name and name.endswith("weight"):
        value = value * 100
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def load_reference_weights(module: nn.Module, shapes: dict[str, list[int]], salt: str) -> None:
    """Fills `module`; its parameter names and shapes must be exactly those of the reference.

    `resample_filter` buffers are constants of ours, not parameters.
    """
    weights = {
        name: reference_weight(salt, name, tuple(shape))
        for name, shape in shapes.items()
        if not name.endswith("resample_filter")
    }
    module.load_state_dict(weights, strict=True)
