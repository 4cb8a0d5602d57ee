"""Training throughput of a preset: images per second of whole steps, and where the time goes. One JSON line.

python -m tests.benchmarks.training --preset car_1024 --batch 4 [--resolution 512] [--isosurface flexicubes]
    [--generator separate] [--steps 32] [--device cuda] [--profile FILE]

A step is the trainer's own: Gmain, Dmain, every 16th step the R1 phase, with both Adam updates and the moving
average. Real images are noise that lies on the device already.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from get3d_model.cameras import UniformOrbit
from get3d_model.config import CONFIG_DIR, Config, load_config
from get3d_model.training.distributed import World
from get3d_model.training.step import build_training_step


def read_config(args: argparse.Namespace) -> Config:
    config = load_config(args.config or CONFIG_DIR / f"{args.preset}.yaml")
    model = {
        name: getattr(args, name)
        for name in ("generator", "isosurface", "num_half_precision_blocks")
        if getattr(args, name) is not None
    }
    render = config.render
    if args.resolution:
        model["image_resolution"] = args.resolution
        render = dataclasses.replace(render, resolution=args.resolution)
    training = dataclasses.replace(config.training, recompute_activations=args.recompute)
    if args.batch:
        training = dataclasses.replace(training, batch_size=args.batch)
    return dataclasses.replace(
        config, render=render, model=dataclasses.replace(config.model, **model), training=training
    )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def median_ms(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        wait(device)
        started = time.perf_counter()
        function()
        wait(device)
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times[1:]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--preset", default="car_1024", help="name of a file in get3d_model/configs")
    chosen.add_argument("--config", type=Path, help="params file instead of a preset")
    parser.add_argument("--batch", type=int, help="images per step; default: the preset's")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--isosurface", choices=("dmtet", "flexicubes"))
    parser.add_argument("--generator", choices=("unified", "separate"))
    parser.add_argument("--num-half-precision-blocks", type=int)
    parser.add_argument("--recompute", action="store_true", help="training.recompute_activations")
    parser.add_argument("--steps", type=int, default=32, help="timed; a multiple of 16 is fair to R1")
    parser.add_argument("--warmup", type=int, default=6)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", type=Path, help="also write the profiler's table of one step here")
    args = parser.parse_args()
    config = read_config(args)
    device = torch.device(args.device)
    train = build_training_step(config, World(0, 1, device), UniformOrbit())
    batch, resolution = config.training.batch_size, config.model.image_resolution
    random = torch.Generator(device).manual_seed(0)
    real = torch.rand(batch, 4, resolution, resolution, generator=random, device=device) * 2 - 1
    angles = torch.rand(batch, 2, generator=random, device=device) + 0.5

    for index in range(1 + args.warmup):
        train.step(real, angles, index, leave_open=True)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    wait(device)
    started = time.perf_counter()
    for index in range(args.steps):
        report = train.step(real, angles, index, leave_open=True)
    train.finish()
    queued = time.perf_counter()
    wait(device)
    seconds = time.perf_counter() - started
    # Reserved, not allocated: recorded graphs keep memory that no tensor owns.
    memory = round(torch.cuda.max_memory_reserved() / 2**30, 2) if cuda else None

    phases = train.phases
    phase_ms = {
        "g_main": lambda: phases.generator_main(batch, torch.Generator().manual_seed(0)),
        "d_main": lambda: phases.discriminator_main(real, angles, torch.Generator().manual_seed(0)),
        "d_reg": lambda: phases.discriminator_r1(real, angles),
    }
    gflop = None
    if not cuda:
        # The counter knows PyTorch's operators, not the fused kernels, and no gradients of single tensors.
        with FlopCounterMode(display=False) as counter:
            phase_ms["d_main"]()
        gflop = round(counter.get_total_flops() / 1e9, 2)
    line = {
        "benchmark": "training",
        "config": config.name,
        "generator": config.model.generator,
        "isosurface": config.model.isosurface,
        "batch": batch,
        "image_resolution": resolution,
        "recompute_activations": config.training.recompute_activations,
        "half_precision_blocks": config.model.num_half_precision_blocks,
        "images_per_s": round(batch * args.steps / seconds, 2),
        "step_ms": round(1000 * seconds / args.steps, 2),
        "host_ms": round(1000 * (queued - started) / args.steps, 2),
        "sec_per_kimg": round(1000 * seconds / args.steps / batch, 2),
        "phase_ms": {name: median_ms(run, device, 5) for name, run in phase_ms.items()},
        "d_main_gflop": gflop,
        "peak_memory_gib": memory,
        "triangles_per_shape": round(float(report["shapes/triangles"])),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(line), flush=True)
    if args.profile:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            train.step(real, angles, 1)
            wait(device)
        key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=90)
        args.profile.write_text(table)


if __name__ == "__main__":
    main()
