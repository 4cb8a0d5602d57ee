"""What a report is made of: read from a run's folders and checked, so that a page never mixes two models."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from get3d_model.config import Config, config_to_dict, load_config
from get3d_model.data.manifest import Manifest, read_manifest
from get3d_model.errors import InputError
from get3d_model.inference import ModelIdentity, Sampler

SHOWN = 8
CREDIT_FILES = ("SOURCES*", "LICENSE*", "LICENCE*")


@dataclass(frozen=True)
class Sample:
    """A mesh that the server sent. empty: the file holds the stand-in for a field without a surface."""

    path: Path
    seed: int
    truncation_psi: float
    empty: bool


@dataclass(frozen=True)
class RunInputs:
    """Everything the report shows.

    log: records of the training, oldest first. real_meshes: files of training shapes. grids: (kimg, file) of
    generated image grids, oldest first. rejected: (file, reason) of meshes that the render step set aside.
    changed_settings: names that differ between the params file and the checkpoint, sorted.
    credit_files: files beside the mesh folder that name its sources, not read.
    """

    config: Config
    manifest: Manifest
    sampler: Sampler
    log: list[dict[str, float]]
    metrics: dict[str, Any]
    samples: list[Sample]
    real_meshes: list[Path]
    reals_grid: Path
    grids: list[tuple[float, Path]]
    rejected: list[tuple[str, str]]
    changed_settings: list[str]
    credit_files: list[Path]
    unavailable: dict[str, str]
    """Why a measure has no value, by its name."""


def read_inputs(
    config_file: Path, data: Path, meshes: Path, training: Path, metrics_file: Path, samples: Path
) -> RunInputs:
    """Reads a finished run. Raises InputError, naming the path and the step to run again."""
    config = load_config(config_file)
    manifest = read_manifest(data)
    log = read_log(training / "metrics.jsonl")
    reals_grid, grids = _image_grids(training / "images")
    metrics = _read_json(metrics_file, dict, "run `get3d evaluate`")
    described = _read_json(samples / "samples.json", list, "run `get3d sample` against the server")
    real_meshes = _training_meshes(manifest, data, meshes)
    sampler = Sampler.load(training)
    identity = sampler.identity
    _check_model(metrics.get("checkpoint_sha256"), identity, metrics_file, training, "evaluate again")
    return RunInputs(
        config=config,
        manifest=manifest,
        sampler=sampler,
        log=log,
        metrics=metrics,
        samples=_samples(described, samples, identity, training),
        real_meshes=real_meshes,
        reals_grid=reals_grid,
        grids=grids,
        rejected=_rejected(data),
        changed_settings=_changed(config, sampler.config),
        credit_files=_credit_files(meshes),
        unavailable=_unavailable(metrics_file.with_name("metrics_full.json")),
    )


def _unavailable(full: Path) -> dict[str, str]:
    """From beside metrics.json, which has null alone; nothing where that file is not."""
    return _read_json(full, dict, "run `get3d evaluate`").get("unavailable", {}) if full.is_file() else {}


def read_log(path: Path) -> list[dict[str, float]]:
    """The records of a training. Raises InputError for a missing, damaged or empty file."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); run `get3d train`") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["kimg"] + 0.0
        except (ValueError, KeyError, TypeError):
            # A killed run leaves half a line at the end.
            if number == len(lines):
                break
            raise InputError(f"{path}: line {number} is damaged; delete that line") from None
        records.append(record)
    if not records:
        raise InputError(f"{path} holds no record yet; let `get3d train` reach its first log interval")
    return records


def training_seconds(log: list[dict[str, float]]) -> float:
    """Time spent in training steps over all resumed parts, in seconds."""
    kimg = [0.0] + [record["kimg"] for record in log]
    steps = zip(log, kimg[:-1], kimg[1:], strict=True)
    return sum(record["sec_per_kimg"] * max(0.0, end - start) for record, start, end in steps)


def _read_json(path: Path, kind: type, fix: str) -> Any:
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {fix}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); {fix} again") from None
    if not isinstance(value, kind) or not value:
        raise InputError(f"{path} is empty or not as that step writes it; {fix} again")
    return value


def _check_model(sha256: Any, identity: ModelIdentity, path: Path, training: Path, fix: str) -> None:
    if sha256 != identity.sha256:
        raise InputError(
            f"{path} belongs to checkpoint {str(sha256)[:12]}, but the newest in {training} is "
            f"{identity.sha256[:12]}; {fix}"
        )


def _samples(
    described: list[dict[str, Any]], folder: Path, identity: ModelIdentity, training: Path
) -> list[Sample]:
    path = folder / "samples.json"
    samples = []
    for entry in described[:SHOWN]:
        try:
            sample = Sample(
                folder / entry["file"],
                int(entry["seed"]),
                float(entry["truncation_psi"]),
                bool(entry["empty"]),
            )
            sha256 = entry["checkpoint_sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error!r}); run `get3d sample` again") from None
        _check_model(sha256, identity, path, training, "export, serve and sample again")
        if not sample.path.is_file():
            raise InputError(f"{sample.path} does not exist; run `get3d sample` again")
        samples.append(sample)
    return samples


def _training_meshes(manifest: Manifest, data: Path, meshes: Path) -> list[Path]:
    train = sorted(set(manifest.splits.get("train") or []) & manifest.shapes.keys())[:SHOWN]
    if not train:
        raise InputError(f"{data}: the manifest has no train split; render the data set again")
    paths = [meshes / manifest.shapes[shape_id].source for shape_id in train]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} does not exist; give the --meshes folder that {data} was rendered from")
    return paths


def _image_grids(folder: Path) -> tuple[Path, list[tuple[float, Path]]]:
    reals = folder / "reals.png"
    if not reals.is_file():
        raise InputError(f"{reals} does not exist; run `get3d train`")
    grids = []
    for path in sorted(folder.glob("fakes_*.png")):
        images_seen = path.stem.removeprefix("fakes_")
        if images_seen.isdigit():
            grids.append((int(images_seen) / 1000, path))
    if not grids:
        raise InputError(f"{folder} holds no fakes_*.png; run `get3d train`")
    return reals, grids


def _rejected(data: Path) -> list[tuple[str, str]]:
    path = data / "rejected.json"
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text())
        return sorted((entry["file"], entry["reason"]) for entry in entries.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); render the data set again") from None


def _changed(params: Config, trained: Config) -> list[str]:
    """Settings of the model and its training that the checkpoint was not made with."""
    now, then = config_to_dict(params), config_to_dict(trained)
    return sorted(
        f"{section}.{key}"
        for section in ("model", "training")
        for key in now[section]
        if now[section][key] != then[section][key]
    )


def _credit_files(meshes: Path) -> list[Path]:
    folders = [meshes]
    # Beside a mesh folder at the top of the project stands the licence of the code, not of the meshes.
    if meshes.resolve().parent != Path.cwd():
        folders.append(meshes.parent)
    return sorted(path for folder in folders for pattern in CREDIT_FILES for path in folder.glob(pattern))


def finite(value: Any) -> bool:
    """Whether a metric is a number that can be shown."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
