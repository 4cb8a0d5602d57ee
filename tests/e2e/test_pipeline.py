"""`get3d pipeline run` for real: kfp's local runner, two TorchX ranks, a running Triton, DVC and git.

Takes minutes; `pytest -m e2e tests/e2e/test_pipeline.py -s` prints what each run took.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from serving.client import Get3DClient
from serving.codec import SampleRequest
from serving.repository import versions
from serving.server import TritonServer
from tests.components.version_project import git

pytestmark = pytest.mark.e2e
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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """With a Triton server that waits for its first model."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git repository, so there is nothing that a version could be recorded in")
    bare, revision = make_repository(tmp_path)
    served = tmp_path / "served"
    served.mkdir()
    with TritonServer(served, may_be_empty=True) as server:
        yield World(tmp_path, bare, revision, served, server.grpc_url)


def sample(url: str) -> bytes:
    with Get3DClient(url) as client:
        return client.sample(SampleRequest(0, 0.7, 128, "glb")).mesh


def test_the_demo_ends_in_a_running_server_and_a_version(world: World) -> None:
    first = world.run("demo-1", small=False)
    assert first["outcome"]["state"] == "SUCCEEDED"
    renders = [step for step in first["steps"]["steps"] if step["step"] == "render"]
    assert [step["state"] for step in renders] == ["SUCCESS"] * 3
    assert "[rank 1]" in first["stdout"], "training had one process only"
    assert sample(world.url)[:4] == b"glTF"
    clone = world.check_version("demo-1")
    metrics = json.loads((clone / "outputs" / "evaluation" / "metrics.json").read_text())
    assert metrics["cd_cov"] is not None
    assert yaml.safe_load((clone / "params.yaml").read_text())["name"] == "demo"
    assert (
        metrics["checkpoint_sha256"]
        == json.loads(_only(world.workspace, "deploy/deployment/deploy.json"))["checkpoint_sha256"]
    )

    again = world.run("demo-2", small=False)
    assert world.states("demo-2") == STEPS_OF_A_CACHED_RUN
    print(f"with everything cached: {again['seconds']:.1f} s at a load of {os.getloadavg()[0]:.1f}")
    world.check_version("demo-2")


def _only(workspace: Path, pattern: str) -> str:
    (found,) = (workspace / "artifacts").glob(f"*/{pattern}")
    return found.read_text()


def test_the_gate_holds_and_lets_through(world: World) -> None:
    held = world.run("held", '--set=evaluation.thresholds=[{"metric": "cd_cov", "min": 2.0}]')
    assert held["outcome"]["state"] == "SUCCEEDED"
    assert world.states("held").keys() & {"export", "deploy"} == set()
    assert not versions(world.served), "nothing may reach the servers"
    clone = world.check_version("held")
    gate = json.loads((clone / "outputs" / "evaluation" / "gate.json").read_text())
    assert gate["decision"] == "hold" and "cd_cov" in gate["reasons"][0]

    # Somebody looked at it and wants it all the same; only what comes after the gate runs.
    world.run(
        "forced", '--set=evaluation.thresholds=[{"metric": "cd_cov", "min": 2.0}]', "--promote", "always"
    )
    states = world.states("forced")
    assert (states["train"], states["evaluate"], states["deploy"]) == ("CACHED", "CACHED", "SUCCESS")
    assert sample(world.url)[:4] == b"glTF"

    # The next one is compared with it: other weights of the same quality go through, and the first is kept beside them.
    relative = '--set=evaluation.thresholds=[{"metric": "cd_mmd_x1000", "worse_than_production": 10.0}]'
    world.run("next", relative)
    assert world.states("next")["train"] == "CACHED"
    gate = json.loads(
        sorted((world.workspace / "artifacts").glob("*/evaluate/evaluation/gate.json"))[-1].read_text()
    )
    assert gate["production"]["comparable"] is True and "in production" in gate["reasons"][0]


def test_a_failed_smoke_test_fails_the_run_and_records_why(world: World) -> None:
    dead = World(world.folder, world.bare, world.revision, world.served, "127.0.0.1:1")
    failed = dead.run("no-server", code=2)
    assert failed["outcome"]["state"] == "FAILED"
    assert dead.states("no-server")["deploy"] == "FAILURE" and "version" not in dead.states("no-server")
    assert not git(world.bare, "for-each-ref", "refs/heads/runs")
    world.run("with-server")
    assert world.states("with-server")["export"] == "CACHED"
    world.check_version("with-server")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def kill_in(world: World, run_id: str, wanted: str, delay_s: float = 0.0) -> None:
    """Starts a run, and when a line that matches appears, kills the step with SIGKILL, as a node that dies does."""
    with subprocess.Popen(
        world.command(run_id), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if re.search(wanted, re.sub(r"\x1b\[\d+m", "", line)):
                break
        else:
            pytest.fail(f"never saw {wanted}: {''.join(lines)[-3000:]}")
        time.sleep(delay_s)
        for child in descendants(process):
            child.kill()
        rest = process.stdout.read()
        assert process.wait() == 2, "".join(lines)[-3000:] + rest


# (step, line after which it is killed, seconds later)
KILLS = [
    ("prepare-meshes", r"Executing task 'prepare-meshes'", 1.5),
    ("render", r"shard 1/3", 1.0),
    ("merge", r"Executing task 'merge'", 0.3),
    ("train", r"kimg 0\.01/0\.03", 0.5),
    ("evaluate", r"Executing task 'evaluate'", 3.0),
    ("export", r"Executing task 'export'", 3.0),
    ("deploy", r"Executing task 'deploy'", 1.5),
    ("version", r"Executing task 'version'", 2.0),
]


def test_every_step_can_be_killed_and_the_next_run_goes_on(world: World) -> None:
    done: list[str] = []
    for step, line, delay_s in KILLS:
        run_id = f"kill-{step}"
        kill_in(world, run_id, line, delay_s)
        record = world.record(run_id)
        assert record["outcome"]["state"] == "FAILED", record
        states = world.states(run_id)
        assert "FAILURE" in states[step], states
        # What was finished before is not done again; the step that was killed last time is finished in this run.
        before = [name for name in done[:-1] if STEPS_OF_A_CACHED_RUN[name] == "CACHED"]
        assert {name: states[name] for name in before} == dict.fromkeys(before, "CACHED"), states
        assert not git(world.bare, "for-each-ref", "refs/heads/runs"), "half a run was recorded"
        done.append(step)
    last = world.run("last")
    assert last["outcome"]["state"] == "SUCCEEDED"
    assert sample(world.url)[:4] == b"glTF"
    clone = world.check_version("last")
    steps = [
        json.loads(line)["step"]
        for line in (clone / "outputs" / "train" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps)), "the training was not continued, or twice"
    leftovers = [
        p for p in clone.rglob("*") if p.suffix in (".tmp", ".part", ".old") and ".dvc" not in p.parts
    ]
    assert not leftovers


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_when_the_runner_is_stopped(world: World, signal_number: int) -> None:
    process = subprocess.Popen(
        world.command("stopped"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "[rank 1]" in line:
                break
        below = descendants(process)
        assert len(below) > 3
        process.send_signal(signal_number)
        process.stdout.read()
        code = process.wait()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
    if signal_number == signal.SIGTERM:
        assert code == 128 + signal.SIGTERM
        assert world.record("stopped")["outcome"]["state"] == "INTERRUPTED"
    world.run("after")
    assert world.states("after")["train"] == "SUCCESS"
