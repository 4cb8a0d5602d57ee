"""The whole pipeline on this machine, and again with every step in the cache: `python -m tests.benchmarks.pipeline`.

kfp's local runner, three render jobs, two TorchX ranks, a running Triton and a git repository with a DVC remote; one
JSON line with the seconds of every step of both runs. The overhead is what is left when nothing has to be done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from serving.server import TritonServer
from tests.e2e.pipeline_world import World, make_repository


def steps(record: dict[str, Any]) -> dict[str, float]:
    """Seconds by step; of those that ran several times, together."""
    seconds: dict[str, float] = {}
    for step in record["steps"]["steps"]:
        seconds[step["step"]] = round(seconds.get(step["step"], 0.0) + step["seconds"], 2)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("demo", "small"), default="demo", help="small: a toy of a model")
    preset = parser.parse_args().preset
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bare, revision = make_repository(folder)
        served = folder / "served"
        served.mkdir()
        # Its log and the runs' go to stderr; stdout is for the line.
        with contextlib.redirect_stdout(sys.stderr), TritonServer(served, may_be_empty=True) as server:
            world = World(folder, bare, revision, served, server.grpc_url)
            result: dict[str, Any] = {"benchmark": "pipeline", "preset": preset}
            for name in ("first", "cached"):
                load = os.getloadavg()[0]
                record = world.run(name, small=preset == "small")
                result[name] = {
                    "seconds": round(record["seconds"], 1), "load_before": round(load, 1), "steps": steps(record),
                }  # fmt: skip
    result["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
