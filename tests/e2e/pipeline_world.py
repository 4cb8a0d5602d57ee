"""What `get3d pipeline run` needs to run for real: a workspace, a repository with a DVC remote, a Triton server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.synth.main import main as synth
from serving.client import Get3DClient
from serving.codec import SampleRequest
from serving.server import TritonServer
from tests.components.version_project import git

ROOT = Path(__file__).parents[2]
# As small as the model goes, from scratch, for the tests that are about the pipeline and not about the model.
SMALL = {
    "meshes.synth_count": 20, "render.views": 2, "render.resolution": 64, "render.supersample": 1,
    "model.z_dim": 8, "model.w_dim": 8, "model.tri_plane_resolution": 16, "model.channel_base": 128,
    "model.channel_max": 16, "model.tet_res": 8, "model.image_resolution": 64,
    "model.discriminator_channel_base": 128, "model.discriminator_channel_max": 16, "training.init_from": None,
    "training.total_kimg": 0.032, "training.batch_size": 4, "training.checkpoint_interval_kimg": 0.008,
    "training.log_interval_kimg": 0.004, "training.validation_images": 4, "training.r1_interval": 2,
    "evaluation.samples_per_reference": 5, "evaluation.surface_points": 64, "evaluation.image_samples": 8,
    "evaluation.bootstrap_resamples": 20, "evaluation.min_samples": 4, "evaluation.sheet_samples": 4,
    "serving.texture_resolution": 64,
}  # fmt: skip
STEPS_OF_A_CACHED_RUN = {
    "prepare-meshes": "CACHED", "render": "CACHED", "merge": "CACHED", "train": "CACHED", "evaluate": "CACHED",
    "export": "CACHED", "validate": "SUCCESS", "gate": "SUCCESS", "deploy": "SUCCESS", "version": "SUCCESS",
    "finish": "SUCCESS",
}  # fmt: skip


def environment() -> dict[str, str]:
    names = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
             (("NAME", "t"), ("EMAIL", "t@example.org"))}  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **names, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class World:
    """A workspace, a git repository with a DVC remote, and an address of Triton servers."""

    folder: Path
    bare: Path
    revision: str
    served: Path
    url: str

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def command(self, run_id: str, *options: str, small: bool = True) -> list[str]:
        words = [
            sys.executable,
            "-m",
            "pipelines.cli",
            "pipeline",
            "run",
            "--params",
            "demo",
            "--run-id",
            run_id,
        ]
        words += ["--workspace", str(self.workspace), "--shards", "3", "--procs-per-node", "2"]
        words += ["--served-repository", str(self.served), "--triton-urls", self.url]
        words += ["--git-repository", str(self.bare), "--git-revision", self.revision]
        if small:
            words += [f"--set={name}={json.dumps(value)}" for name, value in SMALL.items()]
        return [*words, *options]

    def run(self, run_id: str, *options: str, small: bool = True, code: int = 0) -> dict[str, Any]:
        """Runs the pipeline; returns what its folder says."""
        done = subprocess.run(
            self.command(run_id, *options, small=small), cwd=ROOT, env=environment(), capture_output=True, text=True,
            timeout=3600,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-6000:] + done.stderr[-2000:]
        record = self.record(run_id)
        load = os.getloadavg()[0]
        print(f"\n{run_id}: {record['seconds']:.0f} s at a load of {load:.1f}\n{done.stdout[-1500:]}")
        return {**record, "stdout": done.stdout, "stderr": done.stderr}

    def record(self, run_id: str) -> dict[str, Any]:
        folder = self.workspace / "runs" / run_id
        names = ("plan", "outcome", "steps")
        found = {
            name: json.loads(path.read_text())
            for name in names
            if (path := folder / f"{name}.json").is_file()
        }
        return {**found, "seconds": found["steps"]["seconds"]}

    def states(self, run_id: str) -> dict[str, str]:
        """The state of every step; of steps that ran several times, all of them."""
        states: dict[str, list[str]] = {}
        for step in self.record(run_id)["steps"]["steps"]:
            states.setdefault(step["step"], []).append(step["state"])
        return {name: ", ".join(sorted(set(found))) for name, found in states.items()}

    def check_version(self, run_id: str) -> Path:
        """A fresh clone of the run's branch, pulled: DVC finds nothing changed and nothing to do."""
        clone = self.folder / f"clone-{run_id}"
        git(self.folder, "clone", "--quiet", "--branch", f"runs/{run_id}", str(self.bare), str(clone))
        for words in (["pull", "-q"], ["status"], ["repro"]):
            done = subprocess.run(
                [sys.executable, "-m", "dvc", *words], cwd=clone, env=environment(), capture_output=True, text=True,
                timeout=600,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            if words == ["status"]:
                assert "up to date" in done.stdout, done.stdout
            assert "Running stage" not in done.stdout
        return clone


def make_repository(folder: Path) -> tuple[Path, str]:
    """A bare clone of this repository, with a folder as its DVC remote."""
    bare, work = folder / "bare.git", folder / "work"
    git(folder, "clone", "--quiet", "--bare", str(ROOT), str(bare))
    git(folder, "clone", "--quiet", str(bare), str(work))
    for words in (["init", "-q", "-f"], ["remote", "add", "-q", "-d", "-f", "store", str(folder / "remote")]):
        subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=work, env=environment(), check=True, timeout=120
        )
    git(work, "add", "-A")
    git(work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "remote")
    git(work, "push", "-q")
    return bare, git(work, "rev-parse", "HEAD")


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    """With a Triton server that waits for its first model."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git repository, so there is nothing that a version could be recorded in")
    bare, revision = make_repository(folder)
    served = folder / "served"
    served.mkdir()
    with TritonServer(served, may_be_empty=True) as server:
        yield World(folder, bare, revision, served, server.grpc_url)


def sample(url: str) -> bytes:
    with Get3DClient(url) as client:
        return client.sample(SampleRequest(0, 0.7, 128, "glb")).mesh


def make_meshes(folder: Path) -> None:
    """Ten vehicles, four of them held out."""
    assert synth(["--count", "10", str(folder)]) == 0
    names = sorted(path.stem for path in folder.glob("*.glb"))
    (folder / "train.txt").write_text("\n".join(names[:6]))
    (folder / "val.txt").write_text("\n".join(names[6:]))
