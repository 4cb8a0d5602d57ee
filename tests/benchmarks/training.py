"""Times of the training phases of a params file, and what the lattice lookup saves; one JSON line.

python -m tests.benchmarks.training [--config params.yaml] [--steps 8]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from get3d_model.cameras import UniformOrbit
from get3d_model.config import load_config
from get3d_model.generator import build_generator
from get3d_model.networks.discriminator import Discriminator
from get3d_model.ops.triplane import PointLookup
from get3d_model.rendering.select import make_rasterizer
from get3d_model.training.phases import Phases


def median_ms(function: Callable[[], object], steps: int) -> float:
    for _ in range(2):
        function()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1000, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("params.yaml"))
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    config = load_config(args.config)
    model, batch = config.model, config.training.batch_size
    device = torch.device("cpu")
    torch.manual_seed(0)
    generator = build_generator(model)
    discriminator = Discriminator(
        model.image_resolution, model.discriminator_channel_base, model.discriminator_channel_max
    )
    phases = Phases(
        generator, discriminator, make_rasterizer(device), UniformOrbit(), config.training, torch.float32
    )
    real = torch.randn(batch, 4, model.image_resolution, model.image_resolution)
    angles = torch.rand(batch, 2)

    def random() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def g_main() -> None:
        phases.generator_main(batch, random())

    def d_main() -> None:
        phases.discriminator_main(real, angles, random())

    def d_reg() -> None:
        phases.discriminator_r1(real, angles)

    times = {"g_main_ms": median_ms(g_main, args.steps), "d_main_ms": median_ms(d_main, args.steps)}
    times["d_reg_ms"] = median_ms(d_reg, args.steps)
    flops = {}
    for name, phase in (("g_main", g_main), ("d_main", d_main)):
        with FlopCounterMode(display=False) as counter:
            phase()
        flops[f"{name}_gflop"] = round(counter.get_total_flops() / 1e9, 2)
    step_ms = times["g_main_ms"] + times["d_main_ms"] + times["d_reg_ms"] / config.training.r1_interval

    planes = torch.randn(
        batch, 3 * model.tri_plane_features, *[model.tri_plane_resolution] * 2, requires_grad=True
    )
    lattice = generator.synthesis.lookup
    grid = generator.synthesis.extractor.grid
    points = PointLookup(grid.vertices_N3 / grid.extent)
    lookup = {
        name: median_ms(lambda module=module: module(planes).sum().backward(), args.steps)
        for name, module in (("lattice_ms", lattice), ("points_ms", points))
    }
    print(
        json.dumps(
            {
                "benchmark": "training",
                "config": config.name,
                "batch": batch,
                "image_resolution": model.image_resolution,
                **times,
                "sec_per_kimg": round(step_ms / batch, 2),
                **flops,
                "grid_lookup": lookup | {"ratio": round(lookup["points_ms"] / lookup["lattice_ms"], 1)},
                "threads": torch.get_num_threads(),
                "machine": platform.processor() or platform.machine(),
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
