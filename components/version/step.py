"""The version step of a pipeline: which folders are recorded, and where the record goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components.artifacts import call, params_file, read_json, read_pointer
from components.data_pointer import SCHEME
from get3d_model.config import config_to_dict, load_config
from get3d_model.files import write_json_atomic

RECORD_FILE = "version.json"
MADE_MESHES = "data/meshes"
OWN_MESHES = "data/own-meshes"
# How the plan of a run names folders of procedural vehicles.
_MADE_PREFIX = "vehicles-"


def outputs(
    meshes: str, dataset: str, model: Mapping[str, Any], evaluation: str, repository: str | None
) -> dict[str, Path | str]:
    """What dvc.yaml calls them, and where they lie. Raises InputError for a folder that is gone."""
    if meshes.startswith(SCHEME):
        # By pointer: the version names where the meshes are, and copies nothing.
        made, name, source = False, OWN_MESHES, meshes
    else:
        source = Path(meshes)
        made = source.name.startswith(_MADE_PREFIX)
        name = f"{OWN_MESHES}{source.suffix if source.is_file() else ''}"
    found = {
        MADE_MESHES if made else name: source,
        "data/rendered": read_pointer(dataset),
        "outputs/train": Path(model["training"]),
        "outputs/evaluation": Path(evaluation),
    }
    return found | ({"outputs/repository": Path(repository)} if repository else {})


def record(
    git_repository: str,
    git_revision: str,
    run_id: str,
    params: Path,
    found: Mapping[str, Path | str],
    out: str,
) -> dict[str, Any]:
    """Records the run. Returns what version.json says. Raises InputError."""
    if not git_repository:
        result = {"branch": "", "commit": "", "reason": "no git_repository is configured"}
        write_json_atomic(Path(out) / RECORD_FILE, result)
        return result
    from components.version import main

    arguments: list[object] = ["--repo", git_repository, "--revision", git_revision, "--run-id", run_id]
    arguments += ["--out", out, "--outputs", *(f"{name}={path}" for name, path in found.items())]
    own = [name for name in found if name.startswith(OWN_MESHES)]
    # A clone elsewhere has neither this machine's folders, nor steps that did not run.
    arguments += ["--set", f"meshes.path={(own or [MADE_MESHES])[0]}"]
    left_out = ["meshes"] * bool(own) + ["export"] * ("outputs/repository" not in found)
    arguments += ["--without", *left_out] if left_out else []
    # dvc.yaml names settings that a short params file leaves to their defaults.
    whole = yaml.safe_dump(config_to_dict(load_config(params)), sort_keys=False)
    with params_file(whole) as path:
        call(main.main, *arguments, "--params", path)
    return read_json(Path(out) / RECORD_FILE)
