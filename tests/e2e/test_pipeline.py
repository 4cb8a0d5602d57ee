"""`get3d pipeline run` for real: kfp's local runner, two TorchX ranks, a running Triton, DVC and git.

Takes minutes; `pytest -m e2e tests/e2e/test_pipeline.py -s` prints what each run took.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from serving.repository import versions
from tests.components.version_project import git
from tests.e2e.pipeline_world import (
    STEPS_OF_A_CACHED_RUN,
    World,
    make_meshes,
    sample,
)

pytestmark = pytest.mark.e2e


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
    assert held["outcome"]["gate"] == "hold" and "cd_cov" in held["outcome"]["gate_reasons"]
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
    failed = dead.run("no-server", "--deploy-timeout-s", "10", code=2)
    assert failed["outcome"]["state"] == "FAILED"
    assert "no server answers at 127.0.0.1:1 now; deploying will wait 10 s" in failed["stdout"]
    assert "get3d deploy: rolled back: 127.0.0.1:1 is not reachable" in failed["stdout"]
    assert dead.states("no-server")["deploy"] == "FAILURE" and "version" not in dead.states("no-server")
    assert not git(world.bare, "for-each-ref", "refs/heads/runs")
    world.run("with-server")
    assert world.states("with-server")["export"] == "CACHED"
    world.check_version("with-server")


def test_meshes_of_ones_own_are_part_of_the_version(world: World) -> None:
    """In a .zip, and the model is held: two stages did not run."""
    folder = world.folder / "cars"
    make_meshes(folder)
    archive = Path(shutil.make_archive(str(world.folder / "cars"), "zip", folder))
    world.run("own", "--meshes", str(archive), "--promote", "never")
    clone = world.check_version("own")
    assert (clone / "data" / "own-meshes.zip").read_bytes() == archive.read_bytes()
    assert yaml.safe_load((clone / "params.yaml").read_text())["meshes"]["path"] == "data/own-meshes.zip"
    assert list(yaml.safe_load((clone / "dvc.yaml").read_text())["stages"]) == ["render", "train", "evaluate"]
