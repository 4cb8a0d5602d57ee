"""Memory of a served model under many requests: `python -m tests.benchmarks.serving_soak` prints one JSON line.

The real Triton server on this machine answers `--requests` requests of every kind, 8 under way, some of them refused
or cancelled. Resident memory of the server and of its model process and what their shared memory holds are read
every hundred requests. The bound: after a first quarter, in which caches and allocators fill, neither may grow by
more than GROWTH_MIB; the exit status is 1 where one does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.export.main import export
from get3d_model.errors import InputError
from serving.client import Get3DClient
from serving.codec import SampleRequest
from serving.connection import ServiceError
from serving.server import TritonServer
from tests.benchmarks.serving import DEMO
from tests.serving.tiny import write_checkpoint

GROWTH_MIB = 64.0
STEP = 100


def request_of(index: int, resolution: int) -> SampleRequest:
    """Every kind in turn, every seed new; the largest answers among the first, so that their size is known early."""
    kinds: list[dict[str, Any]] = [
        {"texture_resolution": resolution},
        {"texture_resolution": resolution // 2, "file_format": "obj"},
        {"color": "vertex", "file_format": "ply"},
        {"texture_resolution": resolution, "target_triangles": 1000},
        {"deliver": "preview,latent", "preview_frames": 2, "preview_resolution": 128},
        {"texture_resolution": resolution, "seed_tex": index + 1},
    ]
    return SampleRequest(index, **kinds[index % len(kinds)])


def memory_mib(server: TritonServer) -> dict[str, float]:
    """Resident memory of the server and its model processes without shared memory, and the shared memory itself."""
    resident = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, KeyError, ValueError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int(fields["Pid"]) == server.pid or int(fields["PPid"]) == server.pid:
                resident += int(fields["RssAnon"].split()[0])
    shared = 0
    for region in Path("/dev/shm").glob("get3d-triton-*"):
        with suppress(OSError):
            shared += region.stat().st_blocks * 512
    return {"resident": round(resident / 1024, 1), "shared": round(shared / 2**20, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--texture-resolution", type=int, default=256)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="the tests' tiny model instead of the demo's")
    args = parser.parse_args()
    seen: list[dict[str, float]] = []
    failed = {"refused": 0, "cancelled": 0}
    choice = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "checkpoint") if args.tiny else DEMO
        export(checkpoint, Path(folder) / "repository", onnx=False)
        with (
            TritonServer(Path(folder) / "repository") as server,
            Get3DClient(server.grpc_url, timeout_s=600.0) as client,
            Get3DClient(server.grpc_url, timeout_s=0.02) as impatient,
            ThreadPoolExecutor(args.concurrency) as pool,
        ):

            def ask(index: int) -> None:
                kind = choice.random()
                try:
                    if kind < 0.05:
                        client.sample(SampleRequest(index, z_tex=[1.0], texture_resolution=64))
                    elif kind < 0.1:
                        impatient.sample(request_of(index, args.texture_resolution))
                    else:
                        client.sample(request_of(index, args.texture_resolution))
                except InputError:
                    failed["refused"] += 1
                except ServiceError as error:
                    if error.status not in ("DEADLINE_EXCEEDED", "CANCELLED"):
                        raise
                    failed["cancelled"] += 1

            start = time.perf_counter()
            for first in range(0, args.requests, STEP):
                list(pool.map(ask, range(first, min(first + STEP, args.requests))))
                seen.append(memory_mib(server))
            seconds = time.perf_counter() - start
            server.check()
    settled = seen[len(seen) // 4 :]
    growth = {name: round(settled[-1][name] - settled[0][name], 1) for name in settled[0]}
    bounded = all(value <= GROWTH_MIB for value in growth.values())
    print(
        json.dumps(
            {
                "benchmark": "serving_soak",
                "configuration": {**vars(args), "bound_mib": GROWTH_MIB},
                "requests_per_s": round(args.requests / seconds, 2),
                "failed_as_meant": failed,
                "mib": {"first": seen[0], "after_a_quarter": settled[0], "last": seen[-1]},
                "growth_after_a_quarter_mib": growth,
                "bounded": bounded,
                "load_1min": round(os.getloadavg()[0], 2),
            }
        )
    )
    return 0 if bounded else 1


if __name__ == "__main__":
    raise SystemExit(main())
