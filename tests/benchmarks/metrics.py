"""Speed of the geometry metrics: `python -m tests.benchmarks.metrics` prints one JSON line.

A whole evaluation of synthetic meshes, stage by stage: points, light field descriptors, both distances between the
sets and within sets of one size, scores, their intervals by 1000 resamples. The published size on a GPU:

    python -m tests.benchmarks.metrics --device cuda --references 1500 --samples 7500

On the CPU the defaults are small, and rates are what counts. `nearest` compares the implementations of the nearest
point that the machine has, in pairs per second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import trimesh

from get3d_model.errors import InputError
from get3d_model.metrics import kaolin_backend
from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.lfd import lfd_descriptors
from get3d_model.metrics.lfd_distance import lfd_matrix
from get3d_model.metrics.mesh_quality import measure_quality
from get3d_model.metrics.nearest import FusedNearestDistance, MatrixProductDistance, NearestDistance
from get3d_model.metrics.nearest_cpu import CpuNearestDistance
from get3d_model.metrics.points import surface_points
from get3d_model.metrics.select import make_nearest_distance
from get3d_model.metrics.set_intervals import divergence_interval, matching_intervals
from get3d_model.metrics.set_metrics import jensen_shannon, occupied_cells, set_scores
from get3d_model.types import Mesh


def synthetic_meshes(count: int, subdivisions: int, seed: int) -> list[Mesh]:
    """Spheres with waves and other proportions; 20 x 4^subdivisions triangles each."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    faces_F3 = sphere.faces.astype(np.int32)
    random = np.random.default_rng(seed)
    meshes = []
    for _ in range(count):
        waves_33, phase_3 = random.normal(0, 3, (3, 3)), random.uniform(0, 6, 3)
        height_V = 1 + 0.12 * np.sin(sphere.vertices @ waves_33 + phase_3).sum(axis=1)
        vertices_V3 = sphere.vertices * height_V[:, None] * random.uniform(0.3, 1.0, 3)
        meshes.append(Mesh(vertices_V3.astype(np.float32), faces_F3))
    return meshes


class Stages:
    """Seconds of every stage; work per second, and per second of one core, where a stage counts its work.

    The second rate says what a machine without other load would do, where the cores are what limits.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self.rates: dict[str, float] = {}
        self.core_rates: dict[str, float] = {}

    def run(self, name: str, function: Callable[[], Any], work: int = 0) -> Any:
        start, start_cpu = time.perf_counter(), time.process_time()
        result = function()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = seconds = time.perf_counter() - start
        # A run that is cut off still says which stages it came through.
        print(f"{name}: {seconds:.2f} s", file=sys.stderr, flush=True)
        if work:
            self.rates[name] = work / seconds
            self.core_rates[name] = work / max(1e-9, time.process_time() - start_cpu)
        return result


def evaluation(references: int, samples: int, args: argparse.Namespace, device: torch.device) -> Stages:
    """One whole evaluation."""
    stages = Stages(device)
    count = references + samples
    meshes = stages.run("make_meshes", lambda: synthetic_meshes(count, args.subdivisions, 0))
    points = stages.run(
        "points", lambda: np.stack([surface_points(m, args.points, 0) for m in meshes]), count
    )
    named = [(str(i), mesh) for i, mesh in enumerate(meshes)]
    found = stages.run("descriptors", lambda: [d for _, d in lfd_descriptors(named, device)], count)
    problems = [d for d in found if isinstance(d, InputError)]
    if problems:
        raise SystemExit(str(problems[0]))
    descriptors = np.stack(found)
    stages.run("quality_of_50", lambda: [measure_quality(mesh) for mesh in meshes[:50]], min(50, count))
    nearest = make_nearest_distance(device)
    # References, samples, and as many samples as references.
    r, s, t = (
        slice(references),
        slice(references, count),
        slice(references, references + min(references, samples)),
    )
    distances = {
        "chamfer": _distances(
            "chamfer", torch.from_numpy(points).to(device), (r, s, t), stages,
            lambda a, b: chamfer_matrix(a, b, nearest=nearest).numpy(),
        ),
        "lfd": _distances("lfd", descriptors, (r, s, t), stages, lambda a, b: lfd_matrix(a, b, device)),
    }  # fmt: skip
    cells = stages.run("cells", lambda: occupied_cells(points, 0.5))
    bootstrap = Bootstrap()
    stages.run(
        "intervals",
        lambda: (
            [matching_intervals(between, bootstrap) for between, _, _ in distances.values()],
            divergence_interval(cells[r], cells[s], bootstrap),
        ),
    )
    stages.run(
        "scores",
        lambda: (
            [set_scores(*m).flat(name) for name, m in distances.items()],
            jensen_shannon(cells[r], cells[s]),
        ),
    )
    return stages


def _distances(
    name: str, data: Any, parts: tuple[slice, slice, slice], stages: Stages, matrix: Callable
) -> list:
    """Between references and samples, within the references, within as many samples."""
    references, samples, equal = (data[part] for part in parts)
    pairs = len(references) * len(samples)
    half, other_half = (len(x) * (len(x) - 1) // 2 for x in (references, equal))
    return [
        stages.run(f"{name}_between", lambda: matrix(references, samples), pairs),
        stages.run(f"{name}_within_references", lambda: matrix(references, references), half),
        stages.run(f"{name}_within_samples", lambda: matrix(equal, equal), other_half),
    ]


def nearest_rates(device: torch.device) -> dict[str, Any]:
    """Pairs per second of every implementation, at 256 and 2048 points."""
    makers: dict[str, Callable[[], NearestDistance]] = {"matrix": MatrixProductDistance}
    if device.type == "cpu":
        makers["cpu_kernel"] = CpuNearestDistance
    else:
        makers["fused"] = FusedNearestDistance
        if kaolin_backend.missing_requirement() is None:
            makers["kaolin"] = kaolin_backend.KaolinNearestDistance
    sizes = ((256, 4, 2000), (2048, 2, 200)) if device.type == "cpu" else ((256, 4, 20_000), (2048, 4, 4000))
    random = torch.Generator().manual_seed(0)
    result: dict[str, Any] = {}
    for name, make in makers.items():
        for points, references, samples in sizes:
            few = max(1, samples // 20) if name == "matrix" else samples
            a, b = (torch.rand(n, points, 3, generator=random).to(device) for n in (references, few))
            try:
                nearest = make()
                chamfer_matrix(a[:1], b[:2], nearest=nearest)
                times = []
                for _ in range(3):
                    start = time.perf_counter()
                    chamfer_matrix(a, b, nearest=nearest)
                    times.append(time.perf_counter() - start)
            except Exception as error:  # one that a machine cannot run should not cost the other figures
                result[f"{name}_{points}"] = f"{type(error).__name__}: {error}"[:200]
                continue
            result[f"{name}_{points}"] = round(references * few / min(times))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--references", type=int, default=40)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--subdivisions", type=int, default=4, help="triangles: 20 x 4^n, 5120 for 4")
    args = parser.parse_args()
    device = torch.device(args.device)
    start = time.perf_counter()
    load = os.getloadavg()[0]
    rates = nearest_rates(device)
    # Compiles every kernel.
    warm_up = evaluation(3, 4, args, device)
    stages = evaluation(args.references, args.samples, args, device)
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min_at_start": round(load, 2),
        "torch": torch.__version__,
        "peak_host_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if device.type == "cuda":
        machine |= {
            "gpu": torch.cuda.get_device_name(),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6),
        }
    print(
        json.dumps(
            {
                "benchmark": "metrics",
                "configuration": {**vars(args), "triangles": 20 * 4**args.subdivisions},
                "seconds": {name: round(value, 3) for name, value in stages.seconds.items()},
                "evaluation_s": round(sum(stages.seconds.values()) - stages.seconds["make_meshes"], 2),
                "per_second": {name: round(value, 1) for name, value in stages.rates.items()},
                "per_core_second": {name: round(value, 1) for name, value in stages.core_rates.items()},
                "nearest_pairs_per_second": rates,
                "warm_up_s": round(sum(warm_up.seconds.values()), 2),
                "wall_s": round(time.perf_counter() - start, 2),
                "machine": machine,
            }
        )
    )


if __name__ == "__main__":
    main()
