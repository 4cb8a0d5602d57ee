"""The version step of a pipeline: which folders are recorded, and where the record goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import call, read_json, read_pointer
from get3d_model.files import write_json_atomic

RECORD_FILE = "version.json"


def outputs(
    meshes: str, dataset: str, model: Mapping[str, Any], evaluation: str, repository: str | None
) -> dict[str, Path]:
    """What dvc.yaml calls them, and where they lie. Raises InputError for a folder that is gone."""
    found = {
        "data/meshes": Path(meshes),
        "data/rendered": read_pointer(dataset),
        "outputs/train": Path(model["training"]),
        "outputs/evaluation": Path(evaluation),
    }
    return found | ({"outputs/repository": Path(repository)} if repository else {})


def record(
    git_repository: str, git_revision: str, run_id: str, params: Path, found: Mapping[str, Path], out: str
) -> dict[str, Any]:
    """Records the run. Returns what version.json says. Raises InputError."""
    if not git_repository:
        result = {"branch": "", "commit": "", "reason": "no git_repository is configured"}
        write_json_atomic(Path(out) / RECORD_FILE, result)
        return result
    from components.version import main

    arguments: list[object] = ["--repo", git_repository, "--revision", git_revision, "--run-id", run_id]
    arguments += [
        "--params",
        params,
        "--out",
        out,
        "--outputs",
        *(f"{name}={path}" for name, path in found.items()),
    ]
    call(main.main, *arguments)
    return read_json(Path(out) / RECORD_FILE)
