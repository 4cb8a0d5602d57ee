"""The served model: `python -m tests.benchmarks.serving [--params F]` prints one JSON line.

The real Triton server on this machine, asked over gRPC for textured GLBs of an untrained model of the given
configuration: latency of a lone client, and meshes per second with 8 requests under way (which the server
batches) against one. What to expect: the networks' share of a lone
request is shared by a batch, whose meshes are unwrapped on all cores; asking the field takes all cores anyway.
`load_1min` tells whether the machine was busy with something else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from components.export.main import export
from get3d_model.config import load_config
from serving.client import Get3DClient
from serving.codec import SampleRequest, SampleResponse
from serving.server import TritonServer
from tests.serving.tiny import write_checkpoint

BATCH = 8


def timed(
    client: Get3DClient, requests: list[SampleRequest], concurrency: int
) -> tuple[float, list[SampleResponse]]:
    """(meshes per second, responses)."""
    start = time.perf_counter()
    responses = list(client.sample_many(requests, concurrency))
    return len(requests) / (time.perf_counter() - start), responses


def latencies_ms(client: Get3DClient, requests: list[SampleRequest]) -> list[float]:
    times = []
    for request in requests:
        start = time.perf_counter()
        client.sample(request)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def stage_means(responses: list[SampleResponse]) -> dict[str, float]:
    """Mean milliseconds per mesh of each stage; the networks' time is shared by a batch."""
    shares = [
        {**r.metadata.milliseconds, "networks": r.metadata.milliseconds["networks"] / r.metadata.batch_size}
        for r in responses
    ]
    return {stage: round(statistics.mean(share[stage] for share in shares), 1) for stage in shares[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--texture-resolution", type=int, default=512)
    parser.add_argument("--meshes", type=int, default=32)
    args = parser.parse_args()
    config = load_config(args.params)
    requests = [SampleRequest(seed, 0.7, args.texture_resolution) for seed in range(args.meshes)]
    with tempfile.TemporaryDirectory() as folder:
        export(write_checkpoint(Path(folder) / "checkpoint", config=config), Path(folder) / "repository")
        start = time.perf_counter()
        with TritonServer(Path(folder) / "repository") as server, Get3DClient(server.grpc_url) as client:
            start_s = time.perf_counter() - start
            client.sample(requests[0])
            latency = statistics.quantiles(latencies_ms(client, requests), n=10)
            alone, one_by_one = timed(client, requests, 1)
            together, batched = timed(client, requests, BATCH)
    print(
        json.dumps(
            {
                "benchmark": "serving",
                "configuration": {
                    "model": config.name,
                    "texture_resolution": args.texture_resolution,
                    "meshes": args.meshes,
                    "mean_faces": round(statistics.mean(r.metadata.faces for r in one_by_one)),
                    "mean_bytes": round(statistics.mean(r.metadata.bytes for r in one_by_one)),
                },
                "figures": {
                    "start_s": round(start_s, 2),
                    "latency_p50_ms": round(latency[4], 1),
                    "latency_p90_ms": round(latency[8], 1),
                    "meshes_per_s_one_at_a_time": round(alone, 2),
                    f"meshes_per_s_{BATCH}_at_a_time": round(together, 2),
                    "ratio": round(together / alone, 2),
                    "mean_batch_size": round(statistics.mean(r.metadata.batch_size for r in batched), 1),
                    "stage_ms_one_at_a_time": stage_means(one_by_one),
                    f"stage_ms_{BATCH}_at_a_time": stage_means(batched),
                },
                "machine": {
                    "cpu": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "load_1min": round(os.getloadavg()[0], 2),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
