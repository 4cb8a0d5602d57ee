"""Chamfer distance on a GPU, ours against kaolin's: `python -m tests.benchmarks.metrics_gpu` prints one JSON line.

One reference of 2048 points against sets of 2048 points, as the evaluation runs it. A pair is 4.2 million
distances: matrix products write and read them (16.8 MB each way, several times), our kernel computes each once, kaolin's
twice, and neither keeps any. Times are medians per pair, between CUDA events.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from get3d_model.metrics import kaolin_backend
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.nearest import FusedNearestDistance, MatrixProductDistance, NearestDistance
from tests.benchmarks.device_time import median_ms

POINTS, SETS = 2048, 256


def microseconds_per_pair(function: Callable[[], object]) -> float:
    return round(1e3 * median_ms(function) / SETS, 3)


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("metrics_gpu needs an NVIDIA GPU")
    generator = torch.Generator("cuda").manual_seed(0)
    reference_1P3 = torch.rand(1, POINTS, 3, device="cuda", generator=generator) - 0.5
    samples_SQ3 = torch.rand(SETS, POINTS, 3, device="cuda", generator=generator) - 0.5
    figures: dict[str, object] = {}
    implementations: dict[str, Callable[[], NearestDistance]] = {
        "matrix": MatrixProductDistance,
        "fused": FusedNearestDistance,
    }
    problem = kaolin_backend.missing_requirement()
    if problem is None:
        implementations["kaolin"] = kaolin_backend.KaolinNearestDistance
    else:
        figures["kaolin"] = problem
    for name, make in implementations.items():
        nearest = make()
        torch.cuda.reset_peak_memory_stats()
        figures[f"{name}_us_per_pair"] = microseconds_per_pair(
            lambda nearest=nearest: chamfer_matrix(reference_1P3, samples_SQ3, nearest=nearest)
        )
        figures[f"{name}_peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    print(
        json.dumps(
            {
                "benchmark": "metrics_gpu",
                "points": POINTS,
                "sets": SETS,
                "figures": figures,
                "machine": {
                    "gpu": torch.cuda.get_device_name(),
                    "torch": torch.__version__,
                    "cuda": torch.version.cuda,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
