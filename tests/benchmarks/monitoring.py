"""What monitoring costs a training. One JSON line.

python -m tests.benchmarks.monitoring [--steps 600] [--repeats 3] [--scrape-s 15]

cost: the metrics' own work by direct measurement: one record, one scrape over HTTP (its CPU time in the training's
process), one textfile; and what part of the time that is for a training that records every --log-s seconds and is
scraped every --scrape-s seconds.
pairs: two real trainings of a tiny model at the same time of day, with and without an exporter that is scraped every
second, one after the other and in changing order; the ratio of their CPU seconds. Steps of milliseconds make this the
worst case; the spread of the pairs says how much of it is noise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from monitoring.metrics import RECORDED
from monitoring.sinks import Exporter, TextfileSink, TrainingFacts, TrainingMetrics
from tests.components.remote_servers import free_port
from tests.get3d_model.training.tiny import STEP_KIMG, tiny_config, train_command, write_dataset, write_params

RECORDS, SCRAPES = 2000, 200


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


@contextlib.contextmanager
def scraping(url: str, every_s: float):
    """Reads the exporter again and again while the block lasts."""
    over = threading.Event()

    def go() -> None:
        while not over.wait(every_s):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=2).read()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def training_cpu_s(folder: Path, data: Path, steps: int, monitored: bool) -> float:
    """CPU seconds of one training, start-up included."""
    config = tiny_config(steps, checkpoint_interval_kimg=steps * STEP_KIMG, log_interval_kimg=25 * STEP_KIMG)
    params = write_params(folder / "params.yaml", config)
    command = train_command(params, data, Path(tempfile.mkdtemp(dir=folder)))
    port = free_port()
    extra = ["--metrics-port", str(port), "--metrics-textfile", str(folder / "x.prom")] if monitored else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watcher = scraping(f"http://127.0.0.1:{port}/metrics", 1.0) if monitored else contextlib.nullcontext()
    with watcher:
        subprocess.run(
            [*command, *extra], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scrape-s", type=float, default=15.0)
    parser.add_argument(
        "--log-s", type=float, default=10.0, help="seconds between two records of the training"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cost = costs(folder)
        data = write_dataset(folder / "data")
        ratios = []
        for index in range(args.repeats):
            order = (False, True) if index % 2 else (True, False)
            taken = {monitored: training_cpu_s(folder, data, args.steps, monitored) for monitored in order}
            ratios.append(taken[True] / taken[False])
    share = (cost["record_s"] + cost["textfile_s"]) / args.log_s + cost["scrape_s"] / args.scrape_s
    print(
        json.dumps(
            {
                "benchmark": "monitoring",
                "milliseconds": {
                    name.removesuffix("_s"): round(1000 * value, 3) for name, value in cost.items()
                },
                "share_of_time": round(share, 6),
                "pairs_cpu_ratio": [round(ratio, 4) for ratio in ratios],
                "pairs_median": round(statistics.median(ratios), 4) if ratios else None,
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
