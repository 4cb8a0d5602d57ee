"""The TorchX application: what it describes, and a run of it on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.train.torchx_app import train
from get3d_model.training.checkpoint import list_checkpoints, read_state
from tests.get3d_model.training.tiny import tiny_config, write_params

APPLICATION = Path(__file__).parent.parent.parent / "components" / "train" / "torchx_app.py"


def test_the_application_describes_every_node() -> None:
    app = train(
        config="p.yaml", data="d", out="o", j="2x4", gpu=4, max_restarts=5, restart_on_change=True,
        mounts="type=volume,src=claim,dst=/data", env={"NCCL_DEBUG": "WARN"},
    )  # fmt: skip
    (role,) = app.roles
    assert (role.num_replicas, role.resource.gpu) == (2, 4)
    assert role.env["PET_MAX_RESTARTS"] == "5" and role.env["NCCL_DEBUG"] == "WARN"
    (script,) = role.args[1:]
    assert "--nnodes 2 --nproc_per_node 4" in script and role.name == "trainer"
    assert script.endswith("-m components.train.rank --config p.yaml --data d --out o --restart-on-change")
    assert [(mount.src, mount.dst_path) for mount in role.mounts] == [("claim", "/data")]


@pytest.mark.e2e
def test_it_trains_on_two_processes(tiny_data: Path, tmp_path: Path) -> None:
    params, out = write_params(tmp_path / "params.yaml", tiny_config(2)), tmp_path / "out"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [
            sys.executable, "-m", "torchx.cli.main", "run", "--scheduler", "local_cwd", f"{APPLICATION}:train",
            "--config", str(params), "--data", str(tiny_data), "--out", str(out), "--j", "1x2",
        ],
        capture_output=True, text=True, timeout=120, env=environment, cwd=APPLICATION.parent.parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"finished: {out / 'checkpoints' / '000000008'}" in done.stdout + done.stderr
    assert read_state(list_checkpoints(out)[-1]).step == 2
