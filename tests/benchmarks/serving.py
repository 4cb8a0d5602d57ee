"""The served model: `python -m tests.benchmarks.serving` prints one JSON line.

The real Triton server on this machine, asked over gRPC for textured GLBs with 1, 8 and 16 requests under way:
latency as a client sees it, throughput, and the milliseconds of every stage. Every mesh of the runs is compared:
a seed must give the same bytes in each. What to expect: on a CPU a lone request has the networks on one core and its
texture on all; requests that come together have a core each, so the ratio of throughputs is at most the number of
cores over the share of them that a lone request keeps busy. `load_1min` tells whether the machine was busy with
something else: figures are only worth something where it is that of the benchmark alone.

At the end of a run some workers have nothing to do any more: 32 meshes feel it, --meshes 128 hardly. Where cores are
virtual and their speed comes and goes, --rounds 3 takes the concurrencies in turns, so that none has the slow minutes.

--direct     drives the model's engine in processes of its own, with batches made as the dynamic batcher makes them,
             where there is no Triton (the wheel is not needed then); latency lacks gRPC, about 3 ms for a GLB of 1 MB
--device     cuda: the networks, the field and the extraction run there; with a server, Triton chooses it by itself
--checkpoint trained weights; --preset an untrained generator of get3d_model/configs instead
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from get3d_model.config import CONFIG_DIR, load_config
from serving.codec import SampleMetadata, SampleRequest, SampleResponse

DEMO = Path("get3d_model/pretrained/vehicles_256.safetensors")
QUEUE_DELAY_S = 0.005
Sample = Callable[[SampleRequest], SampleResponse]


def _serve_batches(connection: Connection, folder: Path, device: str, workers: int) -> None:
    """An instance: a process as Triton's stub is, answering a batch at a time."""
    import torch

    from serving.engine import load_engine
    from serving.jobs import Job
    from serving.repository import read_model_card

    engine = load_engine(folder, read_model_card(folder), "1", torch.device(device), workers)
    engine.warm_up()
    connection.send("ready")
    while (batch := connection.recv()) is not None:
        outcomes = engine.run([Job([request]) for request in batch])
        connection.send([o if isinstance(o, Exception) else o[0] for o in outcomes])
    engine.close()


class DirectService:
    """Engines behind a queue that batches as Triton's dynamic batcher does; `instances` processes, as with Triton."""

    def __init__(self, repository: Path, device: str, instances: int) -> None:
        from serving.repository import read_model_card

        folder = repository / "get3d" / "1"
        self._most = read_model_card(folder).max_batch_size
        self._queue: queue.SimpleQueue[tuple[SampleRequest, Future[SampleResponse]] | None] = (
            queue.SimpleQueue()
        )
        workers = max(1, len(os.sched_getaffinity(0)) // instances)
        context = multiprocessing.get_context("spawn")
        self._threads, self._processes = [], []
        for _ in range(instances):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve_batches, args=(theirs, folder, device, workers))
            process.start()
            theirs.close()
            self._processes.append(process)
            self._threads.append(threading.Thread(target=self._serve, args=(ours,)))
            # One after the other: two would compile the same kernels.
            ours.recv()
        for thread in self._threads:
            thread.start()

    def sample(self, request: SampleRequest) -> SampleResponse:
        future: Future[SampleResponse] = Future()
        self._queue.put((request, future))
        return future.result()

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread, process in zip(self._threads, self._processes, strict=True):
            thread.join()
            process.join()

    def _serve(self, instance: Connection) -> None:
        while (first := self._queue.get()) is not None:
            batch, until = [first], time.perf_counter() + QUEUE_DELAY_S
            while len(batch) < self._most:
                try:
                    item = self._queue.get(timeout=max(0.0, until - time.perf_counter()))
                except queue.Empty:
                    break
                if item is None:
                    self._queue.put(None)
                    break
                batch.append(item)
            instance.send([request for request, _ in batch])
            for (_, future), outcome in zip(batch, instance.recv(), strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        instance.send(None)


@contextmanager
def service(args: argparse.Namespace, repository: Path) -> Iterator[Sample]:
    if args.direct:
        direct = DirectService(repository, args.device, args.instances)
        try:
            yield direct.sample
        finally:
            direct.close()
        return
    from serving.client import Get3DClient
    from serving.server import TritonServer

    with TritonServer(repository) as server, Get3DClient(server.grpc_url, timeout_s=600.0) as client:
        yield client.sample


@dataclass
class Measured:
    """What was seen with one number of requests under way, over all rounds."""

    times_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    metadata: list[SampleMetadata] = field(default_factory=list)
    load_1min: float = 0.0

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.times_ms)
        stages = sorted({stage for m in self.metadata for stage in m.milliseconds})
        return {
            "p50_ms": round(statistics.median(ordered), 1),
            "p95_ms": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
            "meshes_per_s": round(len(self.metadata) / self.seconds, 2),
            "mean_batch": round(statistics.mean(m.batch_size for m in self.metadata), 1),
            "stage_ms": {
                stage: round(statistics.median(m.milliseconds.get(stage, 0.0) for m in self.metadata), 1)
                for stage in stages
            },
            "load_1min": round(self.load_1min, 2),
        }


def measure(sample: Sample, requests: list[SampleRequest], concurrency: int, into: Measured) -> str:
    """Adds a run with `concurrency` requests under way all the time; returns the hash of its answers in order."""

    def timed(request: SampleRequest) -> SampleResponse:
        start = time.perf_counter()
        answer = sample(request)
        into.times_ms.append(1e3 * (time.perf_counter() - start))
        return answer

    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(timed, requests))
    into.seconds += time.perf_counter() - start
    into.metadata += [answer.metadata for answer in answers]
    into.load_1min = os.getloadavg()[0]
    return hashlib.sha256(b"".join(answer.mesh for answer in answers)).hexdigest()


def make_repository(args: argparse.Namespace, folder: Path) -> str:
    """Exports what is measured; returns its name."""
    from components.export.main import export
    from tests.serving.tiny import write_checkpoint

    if args.preset:
        config = load_config(CONFIG_DIR / f"{args.preset}.yaml")
        checkpoint, name = write_checkpoint(folder / "checkpoint", config=config), f"{config.name}, untrained"
        if args.fitted:
            from tests.benchmarks.fitted import fit_checkpoint

            wrong = fit_checkpoint(checkpoint, args.device)
            name = (
                f"{config.name}, geometry fitted to a vehicle ({100 * wrong:.1f} % of the grid's signs wrong)"
            )
    else:
        config, checkpoint, name = None, args.checkpoint, str(args.checkpoint)
    settings = config or load_config(CONFIG_DIR / "demo.yaml")
    serving = replace(
        settings.serving,
        max_batch_size=args.batch,
        instances=args.instances,
        queue_size=256,
        time_limit_s=600.0,
    )
    export(checkpoint, folder / "repository", config=replace(settings, serving=serving), onnx=False)
    return name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, default=DEMO)
    source.add_argument("--preset")
    parser.add_argument(
        "--fitted",
        action="store_true",
        help="fit a preset's geometry to a vehicle first, so that surfaces are smooth (fitted.py)",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--direct", action="store_true", help="the engine without Triton")
    parser.add_argument("--texture-resolution", type=int, default=1024)
    parser.add_argument("--meshes", type=int, default=32, help="per concurrency and round")
    parser.add_argument("--rounds", type=int, default=1, help="how often each concurrency has its turn")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--batch", type=int, default=8, help="largest batch")
    parser.add_argument("--instances", type=int, default=1, help="processes of the model")
    parser.add_argument("--psi", type=float, default=0.7)
    args = parser.parse_args()
    requests = [SampleRequest(seed, args.psi, args.texture_resolution, "glb") for seed in range(args.meshes)]
    seen = {concurrency: Measured() for concurrency in args.concurrency}
    hashes = set()
    with tempfile.TemporaryDirectory() as folder:
        name = make_repository(args, Path(folder))
        start = time.perf_counter()
        with service(args, Path(folder) / "repository") as sample:
            start_s = time.perf_counter() - start
            # Compiles what first requests compile, with as many under way as later.
            measure(sample, requests[: max(args.concurrency)], max(args.concurrency), Measured())
            for _ in range(args.rounds):
                for concurrency, into in seen.items():
                    hashes.add(measure(sample, requests, concurrency, into))
    figures = {str(concurrency): into.summary() for concurrency, into in seen.items()}
    first = figures[str(args.concurrency[0])]["meshes_per_s"]
    metadata = seen[args.concurrency[0]].metadata
    print(
        json.dumps(
            {
                "benchmark": "serving",
                "configuration": {
                    "model": name,
                    "device": args.device,
                    "direct": args.direct,
                    "texture_resolution": args.texture_resolution,
                    "meshes": args.meshes,
                    "rounds": args.rounds,
                    "batch": args.batch,
                    "instances": args.instances,
                    "mean_faces": round(statistics.mean(m.faces for m in metadata)),
                    "mean_bytes": round(statistics.mean(m.bytes for m in metadata)),
                },
                "start_s": round(start_s, 1),
                "concurrency": figures,
                "throughput_against_first": {
                    key: round(value["meshes_per_s"] / first, 2) for key, value in figures.items()
                },
                "same_bytes": len(hashes) == 1,
                "machine": machine(args.device),
            }
        )
    )


def machine(device: str) -> dict[str, Any]:
    import torch

    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
