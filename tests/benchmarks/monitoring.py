"""What monitoring costs a training. One JSON line.

python -m tests.benchmarks.monitoring [--steps 480] [--repeats 6] [--scrape-s 15] [--log-s 10]

cost: the metrics' own work by direct measurement: one record, one scrape over HTTP (its CPU time in the training's
process), one textfile; and what share of the time that is for a training that records every --log-s seconds and is
scraped every --scrape-s seconds.
drift: CPU seconds of a mesh of the pretrained generator (networks, extraction, texture of 1024), and of the drift statistics of
one that is counted: those of the mesh, and those of the render that one in RENDER_EVERY gets; one thread. drift_share: what
the two add to a mesh on average.
blocks: real trainings of a tiny model, in this process, --repeats of them. Between two records (4 steps, about a quarter of
a second) monitoring is on or off: on means that the record goes into the metrics and a textfile, and that another process
scrapes the exporter every second. Each block's CPU seconds, of all threads, are taken; neighbours, one with and one
without in random order, make a pair, so that whatever else the machine does is in both. overhead: all with over all
without, less 1, with the 95 % interval of a bootstrap over the pairs. Records and scrapes are some 40 and 15 times as
frequent as usual; usual_share_at_most is what the interval's upper end comes to with --log-s and --scrape-s, whichever of
the two it is put down to.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch

import get3d_model
from components.train.monitor import facts
from get3d_model.inference import Sampler, Shapes
from get3d_model.training.distributed import world_from_environment
from get3d_model.training.trainer import Trainer
from monitoring.metrics import RECORDED
from monitoring.sinks import Exporter, TextfileSink, TrainingFacts, TrainingMetrics
from serving import drift
from tests.get3d_model.training.tiny import STEP_KIMG, tiny_config, write_dataset

RECORDS, SCRAPES = 2000, 200
BLOCK_STEPS = 4
WARM_UP_BLOCKS = 8
BLOCK_SCRAPE_S = 1.0
RESAMPLES = 10_000
MESHES = 10
PRETRAINED = Path(get3d_model.__file__).parent / "pretrained" / "vehicles_256.safetensors"


def costs(folder: Path) -> dict[str, float]:
    """CPU seconds of this process for one of each."""
    metrics = TrainingMetrics(TrainingFacts("benchmark", 100.0, 1.0, 10.0, batch_size=4))
    values = dict.fromkeys(RECORDED, 0.5)
    textfile = TextfileSink(folder / "t.prom", metrics)

    def per_call(function: object, count: int) -> float:
        started = time.process_time()
        for index in range(count):
            function(index)
        return (time.process_time() - started) / count

    record_s = per_call(lambda step: metrics.record(step, values), RECORDS)
    textfile_s = per_call(lambda step: textfile.record(step, values), SCRAPES)
    exporter = Exporter(metrics.registry, 0).start()
    # The client's part, in the same process, is in it too: this is an upper bound.
    scrape_s = per_call(lambda _: urllib.request.urlopen(exporter.url).read(), SCRAPES)
    exporter.stop(wait_s=0)
    return {"record_s": record_s, "textfile_s": textfile_s, "scrape_s": scrape_s}


def drift_costs() -> dict[str, float]:
    """CPU seconds of a mesh, and of what is measured of it."""
    sampler = Sampler.load(PRETRAINED)
    found: dict[str, list[float]] = {"mesh_s": [], "statistics_s": [], "render_s": []}

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.process_time()
        result = function(*arguments)
        found[name].append(time.process_time() - started)
        return result

    def mesh(seed: int) -> Shapes:
        shapes = sampler.shapes(sampler.styles([seed], 0.7))
        sampler.textured_mesh(shapes, 0, 1024)
        return shapes

    for seed in range(MESHES + 1):
        shapes = timed("mesh_s", mesh, seed)
        timed("statistics_s", drift.measured, sampler, shapes, 0, shapes.meshes.to_host()[0])
        timed("render_s", drift.rendered, sampler, shapes)
    # The first of each compiles.
    return {name: float(np.median(values[1:])) for name, values in found.items()}


def scrape(url: str, on: Event, over: Event) -> None:
    """Another process: reads the exporter every second, counting only the time that monitoring is on."""
    due = 0.0
    while not over.is_set():
        started = time.monotonic()
        if on.wait(0.05):
            if due <= 0.0:
                with suppress(OSError):
                    urllib.request.urlopen(url, timeout=2).read()
                due += BLOCK_SCRAPE_S
            time.sleep(0.01)
            due -= time.monotonic() - started


class Blocks:
    """A sink that turns monitoring on and off from record to record, and takes the CPU seconds of each block."""

    def __init__(self, metrics: TrainingMetrics, textfile: TextfileSink, on: Event) -> None:
        self._sinks, self._on = (metrics, textfile), on
        self.cpu_s: list[tuple[bool, float]] = []
        self.on_wall_s: list[float] = []
        self._started: float | None = None
        self._wall_started = 0.0
        # By chance, so that nothing periodic in a training falls together with it.
        self._random = random.Random(0)
        self._order = [False, True]

    def record(self, step: int, values: dict[str, float]) -> None:
        if self._on.is_set():
            for sink in self._sinks:
                sink.record(step, values)
        now = time.process_time()
        if self._started is not None:
            self.cpu_s.append((self._on.is_set(), now - self._started))
            if self._on.is_set():
                self.on_wall_s.append(time.perf_counter() - self._wall_started)
        if len(self.cpu_s) % 2 == 0:
            self._order = [True, False] if self._random.random() < 0.5 else [False, True]
        (self._on.set if self._order[len(self.cpu_s) % 2] else self._on.clear)()
        self._started, self._wall_started = time.process_time(), time.perf_counter()

    def pairs(self) -> list[tuple[float, float]]:
        """(with, without) of neighbours."""
        blocks = self.cpu_s[WARM_UP_BLOCKS:]
        return [
            (first[1], second[1]) if first[0] else (second[1], first[1])
            for first, second in zip(blocks[0::2], blocks[1::2], strict=False)
        ]


def training_blocks(folder: Path, data: Path, steps: int) -> Blocks:
    config = tiny_config(
        steps, checkpoint_interval_kimg=steps * STEP_KIMG, log_interval_kimg=BLOCK_STEPS * STEP_KIMG
    )
    out = Path(tempfile.mkdtemp(dir=folder))
    world = world_from_environment(config.training.rank_timeout_s)
    trainer = Trainer(config, data, out, world)
    metrics = TrainingMetrics(facts(config, out, 1, 0))
    exporter = Exporter(metrics.registry, 0).start()
    context = multiprocessing.get_context("spawn")
    on, over = context.Event(), context.Event()
    scraper = context.Process(target=scrape, args=(exporter.url, on, over))
    scraper.start()
    blocks = Blocks(metrics, TextfileSink(folder / "x.prom", metrics), on)
    try:
        with redirect_stdout(io.StringIO()):
            trainer.run([blocks])
    finally:
        over.set()
        scraper.join()
        exporter.stop(wait_s=0)
        world.close()
    return blocks


def overhead(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """(with over without, less 1; ends of the 95 % interval)."""
    pairs_P2 = np.asarray(pairs)
    chosen_RP = np.random.default_rng(0).integers(0, len(pairs_P2), (RESAMPLES, len(pairs_P2)))
    sums_R2 = pairs_P2[chosen_RP].sum(axis=1)
    low, high = np.quantile(sums_R2[:, 0] / sums_R2[:, 1] - 1.0, (0.025, 0.975))
    return float(pairs_P2[:, 0].sum() / pairs_P2[:, 1].sum() - 1.0), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--scrape-s", type=float, default=15.0)
    parser.add_argument(
        "--log-s", type=float, default=10.0, help="seconds between two records of the training"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cost = costs(folder)
        counted = drift_costs()
        data = write_dataset(folder / "data")
        trainings = [training_blocks(folder, data, args.steps) for _ in range(args.repeats)]
    pairs = [pair for blocks in trainings for pair in blocks.pairs()]
    on_wall_s = float(np.mean([wall for blocks in trainings for wall in blocks.on_wall_s]))
    share = (cost["record_s"] + cost["textfile_s"]) / args.log_s + cost["scrape_s"] / args.scrape_s
    ratio, low, high = overhead(pairs)
    block_cpu_s = float(np.mean([without for _, without in pairs]))
    # Of one record and so many scrapes.
    extra_s, scrapes = max(0.0, high) * block_cpu_s, on_wall_s / BLOCK_SCRAPE_S
    print(
        json.dumps(
            {
                "benchmark": "monitoring",
                "milliseconds": {
                    name.removesuffix("_s"): round(1000 * value, 3) for name, value in cost.items()
                },
                "share_of_time": round(share, 6),
                "drift_milliseconds": {
                    name.removesuffix("_s"): round(1000 * value, 2) for name, value in counted.items()
                },
                "drift_share": round(
                    (counted["statistics_s"] + counted["render_s"] / drift.RENDER_EVERY) / counted["mesh_s"],
                    4,
                ),
                "pairs": len(pairs),
                "block_cpu_s": round(block_cpu_s, 3),
                "overhead": round(ratio, 4),
                "interval": [round(low, 4), round(high, 4)],
                "usual_share_at_most": round(max(extra_s / args.log_s, extra_s / scrapes / args.scrape_s), 5),
                "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            }
        )
    )


if __name__ == "__main__":
    main()
