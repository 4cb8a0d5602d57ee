"""Training throughput of a preset on the GPUs of one or several hosts; one JSON line from rank 0.

torchrun --nproc-per-node N -m tests.benchmarks.scaling --preset car_1024 --batch-per-gpu 4

Scaling efficiency is images_per_s at N divided by N times images_per_s at 1. The real images are noise that lies on
the device already, so that the disk and the decoder are left out; everything else is the trainer's own step. Its
learning rates are next to nothing: weights that change differently in two runs soon make meshes of other sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from get3d_model.cameras import UniformOrbit
from get3d_model.config import CONFIG_DIR, load_config
from get3d_model.training.distributed import World, world_from_environment
from get3d_model.training.gradients import average_gradients
from get3d_model.training.step import build_training_step

LEARNING_RATE = 1e-12
Instant = torch.cuda.Event | float


class Clock:
    """Times on the device's own stream, read after everything; the host's clock where there is no GPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def now(self) -> Instant:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, first: Instant, last: Instant) -> float:
        return first.elapsed_time(last) if self._cuda else (last - first) * 1000.0

    def wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


@dataclass(frozen=True)
class TimedWorld(World):
    """Notes when every average over the ranks starts and ends."""

    clock: Clock = field(kw_only=True)
    spans: list[tuple[Instant, Instant]] = field(default_factory=list, kw_only=True)

    def average(self, tensor: Tensor, place: str) -> None:
        started = self.clock.now()
        super().average(tensor, place)
        self.spans.append((started, self.clock.now()))


def all_reduce_alone_ms(values: int, world: TimedWorld, repeats: int = 20) -> float:
    """Median time of averaging one float32 buffer when no rank has anything else to do."""
    flat_P = torch.zeros(values, device=world.device)
    clock, times = world.clock, []
    for _ in range(repeats):
        clock.wait()
        world.barrier("the benchmark")
        started = clock.now()
        world.average(flat_P, "the benchmark")
        ended = clock.now()
        clock.wait()
        times.append(clock.milliseconds(started, ended))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--preset", default="car_1024", help="name of a file in get3d_model/configs")
    chosen.add_argument("--config", type=Path, help="params file instead of a preset")
    parser.add_argument("--batch-per-gpu", type=int, default=4)
    parser.add_argument("--steps", type=int, default=32, help="timed; a multiple of r1_interval is fair")
    parser.add_argument("--warmup", type=int, default=8)
    args = parser.parse_args()
    joined = world_from_environment()
    try:
        shared = {item.name: getattr(joined, item.name) for item in dataclasses.fields(World)}
        world = TimedWorld(**shared, clock=Clock(joined.device))
        line = measure(args, world)
        if world.is_main:
            print(json.dumps(line), flush=True)
    finally:
        joined.close()


def measure(args: argparse.Namespace, world: TimedWorld) -> dict[str, object]:
    config = load_config(args.config or CONFIG_DIR / f"{args.preset}.yaml")
    batch = args.batch_per_gpu
    training = dataclasses.replace(
        config.training,
        batch_size=batch * world.size,
        generator_lr=LEARNING_RATE,
        discriminator_lr=LEARNING_RATE,
    )
    config = dataclasses.replace(config, training=training)
    clock = world.clock
    train = build_training_step(config, world, UniformOrbit())
    resolution = config.model.image_resolution
    random = torch.Generator(world.device).manual_seed(world.rank)
    real_B4HW = torch.rand(batch, 4, resolution, resolution, generator=random, device=world.device) * 2 - 1
    angles_B2 = torch.rand(batch, 2, generator=random, device=world.device) + 0.5

    for index in range(1, 1 + args.warmup):
        train.step(real_B4HW, angles_B2, index, leave_open=True)
    # The R1 phase too: it compiles what the others do not.
    train.step(real_B4HW, angles_B2, 0)
    clock.wait()
    world.barrier("the start of the clock")
    world.spans.clear()
    started = time.perf_counter()
    for index in range(args.steps):
        report = train.step(real_B4HW, angles_B2, index, leave_open=True)
    train.finish()
    clock.wait()
    mine_s = time.perf_counter() - started
    world.barrier("the end of the clock")
    wall_s = time.perf_counter() - started

    in_steps_ms = sum(clock.milliseconds(*span) for span in world.spans) / args.steps
    networks = (train.modules.generator, train.modules.discriminator)
    parameters = [sum(p.numel() for p in network.parameters()) for network in networks]
    alone_ms = sum(all_reduce_alone_ms(values, world) for values in parameters)
    average_ms = averaging_alone_ms(train.modules.generator, world)
    ranks = world.gather({"step_ms": 1000 * mine_s / args.steps, "all_reduce_ms": in_steps_ms}, "the figures")
    cuda = world.device.type == "cuda"
    return {
        "benchmark": "scaling",
        "config": config.name,
        "processes": world.size,
        "batch_per_process": batch,
        "image_resolution": resolution,
        "images_per_s": round(batch * world.size * args.steps / wall_s, 3),
        "step_ms": round(1000 * wall_s / args.steps, 2),
        # Includes the wait for the slowest rank.
        "all_reduce_ms_per_step": [round(entry["all_reduce_ms"], 2) for entry in ranks],
        "step_ms_by_rank": [round(entry["step_ms"], 2) for entry in ranks],
        # Gradients of one generator and one discriminator phase, nobody waiting.
        "all_reduce_alone_ms": round(alone_ms, 3),
        "average_gradients_alone_ms": round(average_ms, 3),
        "generator_parameters": parameters[0],
        "discriminator_parameters": parameters[1],
        "triangles_per_shape": round(float(report["shapes/triangles"])),
        "steps": args.steps,
        "backend": dist.get_backend() if world.size > 1 else None,
        "device": torch.cuda.get_device_name(world.device) if cuda else "cpu",
        "peak_memory_gib": round(torch.cuda.max_memory_allocated(world.device) / 2**30, 2) if cuda else None,
        "torch": torch.__version__,
    }


def averaging_alone_ms(network: torch.nn.Module, world: TimedWorld, repeats: int = 20) -> float:
    """Median time of the whole averaging of a network's gradients, copies included."""
    clock, times = world.clock, []
    for _ in range(repeats):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        clock.wait()
        world.barrier("the benchmark")
        started = clock.now()
        average_gradients(network.parameters(), world)
        ended = clock.now()
        clock.wait()
        times.append(clock.milliseconds(started, ended))
    return statistics.median(times)


if __name__ == "__main__":
    main()
