"""This project's own pipeline: run, recorded, cloned elsewhere, pulled; and what DVC shows of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.version.main import VersionRequest, record_version
from tests.components.version_project import git

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
# As small as the model goes, from scratch.
SMALL: dict[str, dict[str, Any]] = {
    "meshes": {"synth_count": 20},
    "render": {"views": 2, "resolution": 64, "supersample": 1, "val_fraction": 0.4},
    "model": {
        "z_dim": 8, "w_dim": 8, "tri_plane_resolution": 16, "channel_base": 128, "channel_max": 16, "tet_res": 8,
        "image_resolution": 64, "discriminator_channel_base": 128, "discriminator_channel_max": 16,
    },
    "training": {
        "init_from": None, "total_kimg": 0.016, "batch_size": 4, "checkpoint_interval_kimg": 0.008,
        "log_interval_kimg": 0.004, "validation_images": 6, "r1_interval": 2, "data_workers": 1,
    },
    "evaluation": {
        "samples_per_reference": 4, "surface_points": 64, "image_samples": 8, "bootstrap_resamples": 20,
        "min_samples": 4, "sheet_samples": 4,
    },
    "serving": {"texture_resolution": 64},
}  # fmt: skip


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip


def run(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1200)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """work/ is a checkout in which `dvc repro` has run, bare.git the repository."""
    folder = tmp_path_factory.mktemp("chain")
    work = folder / "work"
    run(folder, "git", "clone", "--quiet", str(ROOT), str(work))
    run(work, "git", "checkout", "--quiet", "-B", "main")
    # As it stands in the tree that is tested, committed or not.
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, work / name)
    params = yaml.safe_load((work / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= values
    (work / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(work, "dvc", "remote", "add", "--default", "store", str(folder / "remote"))
    run(work, "git", "commit", "--quiet", "-am", "small")
    run(folder, "git", "init", "--quiet", "--bare", "--initial-branch", "main", "bare.git")
    run(work, "git", "push", "--quiet", str(folder / "bare.git"), "main")
    run(work, "dvc", "repro")
    return folder


def test_a_run_becomes_a_version(project: Path) -> None:
    version = record_version(
        VersionRequest(
            repo=str(project / "bare.git"),
            revision="main",
            run_id="chain",
            params=project / "work/params.yaml",
            outputs=(str(project / "work"),),
            out=project / "out",
        )
    )
    assert version.not_recorded == ()
    lock = yaml.safe_load((project / "work/dvc.lock").read_text())
    assert yaml.safe_load(git(project / "bare.git", "show", "runs/chain:dvc.lock")) == lock
    print(json.dumps(version.metrics, indent=1))

    git(project, "clone", "--quiet", "--branch", "runs/chain", str(project / "bare.git"), "fresh")
    fresh = project / "fresh"
    run(fresh, "dvc", "pull", "--quiet")
    assert json.loads(run(fresh, "dvc", "status", "--json")) == {}
    started = time.monotonic()
    assert "Data and pipelines are up to date." in run(fresh, "dvc", "repro")
    print(f"dvc repro with nothing to do: {time.monotonic() - started:.2f} s, load {os.getloadavg()}")
    # It is whole: the steps after it work there.
    run(fresh, "get3d", "data", "verify", "data/rendered")
    run(fresh, "get3d", "generate", "--checkpoint", "outputs/train", "--out", "samples", "--seeds", "0")
    # One artifact by name, without the rest.
    run(fresh, "git", "tag", "-a", "triton-repository@v1.0.0", "-m", "first")
    run(fresh, "git", "push", "--quiet", "origin", "triton-repository@v1.0.0")
    run(
        project, "dvc", "artifacts", "get", str(project / "bare.git"), "triton-repository",
        "--rev", "v1.0.0", "--out", str(project / "repository"),
    )  # fmt: skip
    for path in (fresh / "outputs/repository").rglob("*"):
        copy = project / "repository" / path.relative_to(fresh / "outputs/repository")
        assert path.is_dir() or copy.read_bytes() == path.read_bytes()


def test_what_dvc_shows(project: Path) -> None:
    work = project / "work"
    metrics = json.loads(run(work, "dvc", "metrics", "show", "--json"))
    files = next(iter(metrics.values()))["data"]
    assert set(files) == {"outputs/train/best.json", "outputs/evaluation/metrics.json"}
    assert all(not file.get("error") for file in files.values())
    run(work, "dvc", "plots", "show", "--out", str(project / "plots"))
    plots = json.loads(run(work, "dvc", "plots", "show", "--json", "--split"))
    assert not plots.get("errors")
    losses = next(value for name, value in plots["data"].items() if "Adversarial losses" in name)
    assert len(losses) == 1 and "generator_rgb" in json.dumps(losses)


def test_experiments_are_queued_and_compared(project: Path) -> None:
    work = project / "work"
    run(work, "git", "add", "dvc.lock")
    run(work, "git", "commit", "--quiet", "-m", "run")
    run(work, "dvc", "exp", "run", "--queue", "-S", "training.r1_gamma=20,80", "evaluate")
    run(work, "dvc", "exp", "run", "--run-all", "--jobs", "1")
    table = json.loads(run(work, "dvc", "exp", "show", "--json"))
    found = {
        rev["data"]["params"]["params.yaml"]["data"]["training"]["r1_gamma"]: rev["data"]["metrics"]
        for entry in table
        for experiment in entry.get("experiments") or []
        for rev in experiment["revs"]
    }
    assert set(found) == {20, 80}
    for metrics in found.values():
        assert "value" in metrics["outputs/train/best.json"]["data"]
        assert metrics["outputs/evaluation/metrics.json"]["data"]
    # As the README has it: few enough columns for a terminal.
    shown = run(work, "dvc", "exp", "show", "--csv", "--drop", ".*", "--keep", "Exp|.*r1_gamma|value|cd_")
    head, *rows = shown.splitlines()
    columns = head.split(",")
    assert {"Experiment", "value", "cd_cov", "training.r1_gamma"} <= set(columns) and len(columns) < 9, head
    assert {float(row.rpartition(",")[2]) for row in rows} >= {20, 80}
