"""A sweep over a training setting with DVC: every experiment trains with its own value and reports its metric."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from get3d_model.inference import find_checkpoint
from get3d_model.training.checkpoint import read_state
from tests.get3d_model.training.tiny import tiny_config, write_params


def run(command: list[str], folder: Path, root: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.e2e
def test_gamma_is_swept_by_dvc_experiments(tiny_data: Path, tmp_path: Path, repository_root: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    # The train stage as it is; the data set is given instead of rendered.
    pipeline = yaml.safe_load((repository_root / "dvc.yaml").read_text())
    pipeline = {"stages": {"train": pipeline["stages"]["train"]}, "metrics": pipeline["metrics"]}
    (clone / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    shutil.copytree(
        repository_root / "get3d_model", clone / "get3d_model", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(tiny_data, clone / "data" / "rendered")
    write_params(clone / "params.yaml", tiny_config(2, validation_images=6, r1_gamma=1.0))
    for command in (
        ["git", "init", "-q"],
        ["dvc", "init", "-q"],
        ["git", "add", "."],
        ["git", "commit", "-qm", "x"],
    ):
        run(command, clone, repository_root)

    values = {}
    for gamma in (2.0, 8.0):
        run(
            ["dvc", "exp", "run", "-S", f"training.r1_gamma={gamma}", "-n", f"gamma-{gamma:g}"],
            clone, repository_root,
        )  # fmt: skip
        state = read_state(find_checkpoint(clone / "outputs" / "train").parent)
        assert (state.config["training"]["r1_gamma"], state.step) == (gamma, 2)
        values[f"gamma-{gamma:g}"] = json.loads((clone / "outputs" / "train" / "best.json").read_text())[
            "value"
        ]

    table = json.loads(run(["dvc", "exp", "show", "--json"], clone, repository_root))
    shown = {}
    for experiment in table[-1]["experiments"]:
        data = experiment["revs"][0]["data"]
        assert (
            f"gamma-{data['params']['params.yaml']['data']['training']['r1_gamma']:g}" == experiment["name"]
        )
        shown[experiment["name"]] = data["metrics"]["outputs/train/best.json"]["data"]["value"]
    assert shown == values
