"""Versions: `python -m tests.benchmarks.versions` prints one JSON line.

`noop_repro_s`: `dvc repro` with nothing to do, as a command, in this project's checkout where all its stages are recorded
(with a stand-in of a few bytes for every output). `noop_status_s`: the same of `dvc status`.
`..._cpu_s`: processor time, which other load changes less.
`record_s`, `again_s`: recording outputs of the given size in a remote on this disk, and once more with everything there.
`peak_extra_mb`: the most that stood beside the remote meanwhile (the clone, lists of files), looked at twenty times a second.
What to expect: the commands start in half a second; recording reads every byte once for its hash and once to send it.
`load_1min` tells whether the machine was busy with something else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from components.version.main import VersionRequest, record_version
from tests.components.version_project import git, make_project

ROOT = Path(__file__).parents[2]
REPEATS = 5


def noop_seconds(folder: Path) -> dict[str, float]:
    """The best of several runs each: the rest is the machine."""
    git(folder, "clone", "--quiet", str(ROOT), "checkout")
    checkout = folder / "checkout"
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    pipeline = yaml.safe_load((checkout / "dvc.yaml").read_text())
    outputs = [
        out if isinstance(out, str) else next(iter(out))
        for stage in pipeline["stages"].values()
        for out in stage["outs"]
    ]
    for out in outputs:
        (checkout / out).mkdir(parents=True)
        (checkout / out / "part").write_text(out)
    for name in ("gate.json", "metrics.json"):
        (checkout / "outputs/evaluation" / name).write_text("{}")
    assert Path(params["meshes"]["path"]) in map(Path, outputs)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }

    def dvc(*words: str) -> tuple[float, str]:
        started = time.perf_counter()
        done = subprocess.run(
            ["dvc", *words], cwd=checkout, env=environment, capture_output=True, text=True, check=True
        )
        return time.perf_counter() - started, done.stdout

    dvc("commit", "--force")
    assert "up to date" in dvc("repro")[1]
    result = {}
    for command in ("repro", "status"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result[f"noop_{command}_s"] = round(min(dvc(command)[0] for _ in range(REPEATS)), 3)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        result[f"noop_{command}_cpu_s"] = round(spent / REPEATS, 3)
    return result


def used_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def record_seconds(folder: Path, megabytes: int, shards: int) -> dict[str, float]:
    project = make_project(folder)
    for index in range(shards):
        content = os.urandom(megabytes * 1_000_000 // shards)
        (project.run / f"data/rendered/shards/{index}.tar").write_bytes(content)
    request: VersionRequest = project.request("first")
    result: dict[str, float] = {}
    shutil.rmtree(folder / "remote", ignore_errors=True)
    peak, finished = [0], threading.Event()

    def watch() -> None:
        while not finished.wait(0.05):
            with contextlib.suppress(FileNotFoundError):
                peak[0] = max(peak[0], used_bytes(request.out))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for name in ("record_s", "again_s"):
        started = time.perf_counter()
        record_version(request)
        result[name] = round(time.perf_counter() - started, 2)
    finished.set()
    watcher.join()
    return result | {"peak_extra_mb": round(peak[0] / 1e6, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        result = noop_seconds(folder)
        (folder / "record").mkdir()
        result |= record_seconds(folder / "record", args.megabytes, args.shards)
    machine = {"cpus": os.cpu_count(), "load_1min": os.getloadavg()[0], "machine": platform.machine()}
    print(json.dumps({"benchmark": "versions", **vars(args), **result, **machine}))


if __name__ == "__main__":
    main()
