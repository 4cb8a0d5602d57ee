"""The training step of a pipeline: starts the job, and hands over what it left in its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.artifacts import call, numbers, picture, read_json, resolve_init_from
from get3d_model.errors import InputError
from get3d_model.files import atomic_directory, sha256_file, write_bytes_atomic

PARAMS_FILE = "params.yaml"
PROFILE_FILE = "profile.yaml"
JOB_FOLDER = "job"
GENERATOR_FILE = "generator_ema.safetensors"


@dataclass(frozen=True)
class Trained:
    """facts: about the checkpoint. metrics: flat figures. folder: the training's."""

    folder: Path
    facts: dict[str, Any]
    metrics: dict[str, float]

    def pictures(self) -> list[str]:
        """The newest grid of generated pictures and the grid of real ones, as Markdown."""
        grids = sorted((self.folder / "images").glob("fakes_*.png"))[-1:]
        shown = []
        for title, path in (
            ("Generated", grids[0] if grids else None),
            ("Real", self.folder / "images" / "reals.png"),
        ):
            if path is not None and path.is_file():
                shown += [f"## {title}", picture(path)]
        return shown


def launch(
    folder: str, config: str, data: Path, nodes: int, procs_per_node: int, scheduler: str, profile: str
) -> None:
    """Trains until it is finished. Raises InputError; SystemExit with the launcher's status."""
    out = Path(folder)
    settings = yaml.safe_load(config)
    start = settings["training"].get("init_from")
    if start is not None:
        # The processes of a job start in another folder.
        settings["training"]["init_from"] = str(resolve_init_from(start))
    params = params_file(out)
    write_bytes_atomic(params, yaml.safe_dump(settings, sort_keys=False).encode())
    arguments: list[object] = ["--config", params, "--data", data, "--out", out]
    arguments += ["--nodes", nodes, "--procs-per-node", procs_per_node, "--scheduler", scheduler]
    if profile:
        write_bytes_atomic(params.with_name(PROFILE_FILE), profile.encode())
        arguments += ["--profile", params.with_name(PROFILE_FILE)]
    elif scheduler != "local_cwd":
        raise InputError(
            f"scheduler {scheduler} needs a cluster profile; compile the pipeline with --profile"
        )
    from components.train import launch as launcher

    call(launcher.main, *arguments)


def params_file(out: Path) -> Path:
    """The params file of the job that trains into `out`; beside it, because a training's folder is only its own."""
    return out.with_name(f"{out.name}.{JOB_FOLDER}") / PARAMS_FILE


def collect(folder: str, target: str) -> Trained:
    """Copies the newest checkpoint's generator into `target`, a folder that appears whole. Raises InputError."""
    from get3d_model.inference import find_checkpoint

    out = Path(folder)
    source = find_checkpoint(out)
    with atomic_directory(Path(target)) as staged:
        shutil.copyfile(source, staged / GENERATOR_FILE)
    checkpoint = read_json(source.parent / "checkpoint.json")
    config = checkpoint["config"]
    facts = {
        "name": config["name"], "framework": "pytorch", "kimg": float(checkpoint["kimg"]), "step": checkpoint["step"],
        "resolution": config["model"]["image_resolution"], "sha256": sha256_file(source), "training": str(out),
    }  # fmt: skip
    return Trained(out, facts, {"kimg": facts["kimg"], **_last_record(out), **_best(out)})


def identity(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a data set, for the model's metadata."""
    return {"dataset_manifest_sha256": metadata["manifest_sha256"]} if "manifest_sha256" in metadata else {}


def _last_record(out: Path) -> dict[str, float]:
    """Of metrics.jsonl; a killed run may have left half a line."""
    try:
        lines = (out / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return numbers(json.loads(line))
        except ValueError:
            continue
    return {}


def _best(out: Path) -> dict[str, float]:
    path = out / "best.json"
    return {f"best_{key}": value for key, value in numbers(read_json(path)).items()} if path.is_file() else {}
