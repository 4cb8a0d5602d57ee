"""Which implementation of the metrics serves a device."""

from __future__ import annotations

import importlib.util

import torch

from get3d_model.metrics import kaolin_backend
from get3d_model.metrics.nearest import FusedNearestDistance, MatrixProductDistance, NearestDistance


def make_nearest_distance(device: torch.device) -> NearestDistance:
    """Our own kernel on the CPU, and on a CUDA device where Triton is; else kaolin's kernel where that is installed,
    else matrix products.

    By speed: `python -m tests.benchmarks.metrics` measures those that a machine has. Raises InputError for a kaolin
    that does not load.
    """
    if device.type == "cpu":
        # Numba is loaded only where it computes.
        from get3d_model.metrics.nearest_cpu import CpuNearestDistance

        return CpuNearestDistance()
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        return FusedNearestDistance()
    if device.type == "cuda" and kaolin_backend.missing_requirement() is None:
        return kaolin_backend.KaolinNearestDistance()
    return MatrixProductDistance()
