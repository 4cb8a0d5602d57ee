"""A pipeline of three quick stages in a real bare git repository, for tests of versions and data pointers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.version.main import VersionRequest

STEP = """
import json, pathlib, sys, yaml
params = yaml.safe_load(open("params.yaml"))
what = sys.argv[1]
if what == "render":
    folder = pathlib.Path("data/rendered"); (folder / "shards").mkdir(parents=True, exist_ok=True)
    for i in range(3):
        (folder / "shards" / f"{i}.tar").write_bytes(bytes([i, params["render"]["views"]]) * 5000)
    (folder / "manifest.json").write_text("{}")
if what == "train":
    folder = pathlib.Path("outputs/train"); folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").write_text(str(params["training"]["r1_gamma"]))
    (folder / "best.json").write_text(json.dumps({"value": params["training"]["r1_gamma"] / 2, "metric": "swd"}))
if what == "evaluate":
    folder = pathlib.Path("outputs/evaluation"); folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"cov": 0.5, "mmd": {"mean": 0.25}, "passed": True}))
"""
PIPELINE = {
    "stages": {
        "render": {
            "cmd": f"{sys.executable} step.py render",
            "deps": ["step.py", "assets"],
            "params": ["render"],
            "outs": [{"data/rendered": {"persist": True}}],
        },
        "train": {
            "cmd": f"{sys.executable} step.py train --gamma ${{training.r1_gamma}}",
            "deps": ["step.py", "data/rendered"],
            "params": ["training"],
            "outs": ["outputs/train"],
        },
        "evaluate": {
            "cmd": f"{sys.executable} step.py evaluate",
            "deps": ["outputs/train", "data/rendered/manifest.json"],
            "metrics": ["outputs/evaluation/metrics.json"],
        },
    },
    "metrics": ["outputs/train/best.json"],
}
PARAMS = {"render": {"views": 2}, "training": {"r1_gamma": 10.0}}
OUTPUTS = ("data/rendered", "outputs/train", "outputs/evaluation/metrics.json")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Project:
    """bare: the repository. run: a folder with the run's outputs and params, which `dvc repro` made. folder: scratch.

    lock: dvc.lock as DVC wrote it.
    """

    folder: Path
    bare: Path
    run: Path
    revision: str
    lock: dict[str, Any]

    def request(self, run_id: str = "a-1", **changes: Any) -> VersionRequest:
        return VersionRequest(
            **{
                "repo": str(self.bare),
                "revision": self.revision,
                "run_id": run_id,
                "params": self.run / "params.yaml",
                "outputs": tuple(f"{name}={self.run / name}" for name in OUTPUTS),
                "out": self.folder / "out",
                **changes,
            }
        )

    def branches(self) -> list[str]:
        return git(self.bare, "for-each-ref", "--format=%(refname:short)", "refs/heads/runs").splitlines()

    def commits(self, branch: str) -> int:
        return int(git(self.bare, "rev-list", "--count", f"{self.revision}..{branch}"))


def make_project(
    folder: Path, remote_url: str | None = None, remote: dict[str, Any] | None = None
) -> Project:
    """Commits the pipeline with another gamma, then runs it as the cluster would, and takes the outputs away."""
    from dvc.repo import Repo

    work, bare, run = folder / "work", folder / "bare.git", folder / "run"
    (work / "assets").mkdir(parents=True)
    (work / "assets" / "mesh").write_text("mesh")
    (work / "step.py").write_text(STEP)
    (work / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    (work / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "training": {"r1_gamma": 1.0}}))
    (work / ".gitignore").write_text("/data/\n/outputs/\n")
    git(folder, "init", "--quiet", "--bare", "--initial-branch", "main", str(bare))
    git(work, "init", "--quiet", "--initial-branch", "main")
    with Repo.init(str(work)) as repo, repo.config.edit() as config:
        config["core"]["analytics"] = False
        config["core"]["remote"] = "store"
        config["remote"]["store"] = {"url": remote_url or str(folder / "remote"), **(remote or {})}
    git(work, "add", ".")
    git(work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "pipeline")
    git(work, "push", "--quiet", str(bare), "main")
    (work / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q"], cwd=work, env=environment, check=True, timeout=120
    )
    run.mkdir()
    for name in (*OUTPUTS, "params.yaml"):
        target = run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (work / name).is_dir():
            shutil.copytree(work / name, target)
        else:
            shutil.copy(work / name, target)
    lock = yaml.safe_load((work / "dvc.lock").read_text())
    return Project(folder, bare, run, git(bare, "rev-parse", "main"), lock)


def check_version(bare: Path, branch: str, folder: Path, config: str = "") -> Path:
    """A fresh clone of the branch, pulled: DVC must find nothing changed and nothing to do. Returns the clone.

    config: DVC settings that are not in git, such as keys.
    """
    from dvc.repo import Repo

    clone = folder / f"fresh-{len(list(folder.glob('fresh-*')))}"
    git(folder, "clone", "--quiet", "--branch", branch, str(bare), str(clone))
    (clone / ".dvc" / "config.local").write_text(config)
    with Repo(str(clone)) as repo:
        repo.pull()
        assert repo.status() == {}
        assert repo.reproduce(all_pipelines=True) == []
    return clone


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def set_remote(project: Project, text: str) -> None:
    """Another `.dvc/config` on the main branch, with a commit of its own."""
    work = project.folder / "edit"
    git(project.folder, "clone", "--quiet", str(project.bare), str(work))
    (work / ".dvc" / "config").write_text(text)
    git(work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-am", "remote")
    git(work, "push", "--quiet", "origin", "main")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
