"""Which implementation of the metrics serves a device."""

from __future__ import annotations

import torch

from get3d_model.metrics import kaolin_backend
from get3d_model.metrics.nearest import MatrixProductDistance, NearestDistance


def make_nearest_distance(device: torch.device) -> NearestDistance:
    """kaolin's kernel on a CUDA device where kaolin is installed, our own kernel on the CPU, else matrix products.

    `python -m tests.benchmarks.metrics_gpu` and `tests.benchmarks.metrics` measure them. Raises InputError for a
    kaolin that does not load.
    """
    if device.type == "cpu":
        # Numba is loaded only where it computes.
        from get3d_model.metrics.nearest_cpu import CpuNearestDistance

        return CpuNearestDistance()
    if device.type == "cuda" and kaolin_backend.missing_requirement() is None:
        return kaolin_backend.KaolinNearestDistance()
    return MatrixProductDistance()
