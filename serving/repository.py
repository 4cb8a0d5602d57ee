"""The Triton model repository that `get3d export` writes and `get3d serve` serves.

    REPOSITORY/get3d/config.pbtxt            rendered from the template
    REPOSITORY/get3d/<version>/model.py      what Triton runs
    REPOSITORY/get3d/<version>/generator_ema.safetensors   the weights
    REPOSITORY/get3d/<version>/mapping.pt2, fields.pt2      the networks as torch.export programs
    REPOSITORY/get3d/<version>/mapping.onnx, fields.onnx    the same for other runtimes
    REPOSITORY/get3d/<version>/reference.json, reference.glb
    REPOSITORY/get3d/<version>/model_card.json

Free of torch: the server's parent process needs none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from serving.codec import (
    INPUTS,
    MAX_RESPONSE_BYTES,
    MODEL_NAME,
    OUTPUTS,
    InputSpec,
    SampleRequest,
    TensorSpec,
)

TEMPLATE_DIR = Path(__file__).parent / "model_repository" / MODEL_NAME
CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.py"
CARD_FILE = "model_card.json"
MAX_VERSION = 10**18
"""Triton's version numbers are signed integers of 64 bits, and the next ones have to fit as well. Dates fit, to the second."""
SERVED_VERSIONS = 2
"""The newest version answers requests that name none; its predecessor stays loaded for a roll-back."""


@dataclass(frozen=True)
class Defaults:
    """What a request gets for the fields it leaves out; the names are those of `SampleRequest`."""

    truncation_psi: float
    texture_resolution: int
    file_format: str = "glb"

    def __post_init__(self) -> None:
        SampleRequest(0, self.truncation_psi, self.texture_resolution, self.file_format)


@dataclass(frozen=True)
class Limits:
    """What the server allows itself and its callers.

    time_limit_s: from the start of a batch to its answers. queue_size: requests that wait; more are refused
    (UNAVAILABLE). queue_timeout_s: after it, a waiting request is refused. response_mib: of one mesh with its
    previews; a batch holds max_batch_size of them in shared memory, its budget (see docs/serving.md).
    """

    time_limit_s: float = 60.0
    queue_size: int = 64
    queue_timeout_s: float = 60.0
    response_mib: int = MAX_RESPONSE_BYTES >> 20


@dataclass(frozen=True)
class Origin:
    """Where a version comes from. None: not told.

    dataset_sha256: of the training data. training_commit: of the code that trained. metrics: of the evaluation.
    licence, credits: the terms of the weights, and whom to name.
    """

    dataset_sha256: str | None = None
    training_commit: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    credits: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """What a version is: which weights, how they were trained, and how it answers.

    checkpoint: the weight file's description without its configuration (kimg, data set hash ...).
    config: the whole params the model was trained with. files: SHA-256 of each other file of the version.
    parameters: of the networks, by network. checks: how far each exported form is from the modules, per output, as a
    share of the output's largest magnitude, and what was allowed.
    """

    name: str
    checkpoint_sha256: str
    checkpoint: dict[str, Any]
    config: dict[str, Any]
    defaults: Defaults
    max_batch_size: int
    package_version: str
    files: dict[str, str]
    limits: Limits = Limits()
    origin: Origin = Origin()
    parameters: dict[str, int] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_model_card(version_folder: Path) -> ModelCard:
    """Raises InputError for a folder that `get3d export` did not write."""
    path = Path(version_folder) / CARD_FILE
    try:
        values = json.loads(path.read_text())
        parts = {"defaults": Defaults, "limits": Limits, "origin": Origin}
        built = {name: kind(**values[name]) for name, kind in parts.items() if name in values}
        return ModelCard(**{**values, **built})
    except FileNotFoundError:
        raise InputError(f"{path}: no model card here; make the repository with get3d export") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a model card ({error}); export the model again") from None


def versions(repository: Path) -> list[int]:
    """The versions of the model in a repository, ascending; none where there is no repository yet."""
    folder = Path(repository) / MODEL_NAME
    return version_numbers(
        [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    )


def version_numbers(folders: Iterable[str]) -> list[int]:
    """The folders of a model that are versions, ascending: plain positive numbers, no larger than Triton can hold."""
    named = [name for name in folders if name.isascii() and name.isdigit() and name[0] != "0"]
    return sorted(
        int(name) for name in named if len(name) <= len(str(MAX_VERSION)) and int(name) <= MAX_VERSION
    )


def check_repository(repository: Path) -> None:
    """Raises InputError unless `repository` holds a model, and what would be served is what was exported."""
    repository = Path(repository)
    fix = f"make one with: get3d export --checkpoint FILE --repository {repository}"
    if not repository.is_dir():
        raise InputError(f"{repository}: no such model repository; {fix}")
    if not (repository / MODEL_NAME / CONFIG_FILE).is_file() or not versions(repository):
        raise InputError(f"{repository}: holds no {MODEL_NAME} model; {fix}")
    for number in list_served(repository):
        check_version(repository / MODEL_NAME / str(number))


def list_served(repository: Path) -> list[int]:
    """The versions that a server of this repository serves, ascending."""
    # Here and not above: the model's process needs no client library.
    from serving.model_config import served_versions

    present = versions(repository)
    try:
        return served_versions((Path(repository) / MODEL_NAME / CONFIG_FILE).read_text(), present)
    except (OSError, InputError):
        return present[-SERVED_VERSIONS:]  # Triton will say what it does not understand


def check_version(folder: Path) -> None:
    """Raises InputError unless a version folder holds what was exported."""
    card, present = read_model_card(folder), file_hashes(folder)
    for name, sha256 in card.files.items():
        if present.get(name) != sha256:
            raise InputError(
                f"{folder / name}: missing or changed after it was exported; export the model again"
            )


def render_config(
    max_batch_size: int, limits: Limits = Limits(), instances: int = 1, device: str = "auto"
) -> str:
    """The text of `config.pbtxt`. device: "auto" (a GPU where there is one) or "cpu"."""
    template = Template((TEMPLATE_DIR / f"{CONFIG_FILE}.template").read_text())
    return template.substitute(
        name=MODEL_NAME,
        max_batch_size=max_batch_size,
        served_versions=SERVED_VERSIONS,
        queue_size=limits.queue_size,
        queue_timeout_us=round(limits.queue_timeout_s * 1e6),
        instances=instances,
        kind=f"KIND_{device.upper()}",
        inputs=",\n".join(_tensor_entry(spec) for spec in INPUTS),
        outputs=",\n".join(_tensor_entry(spec) for spec in OUTPUTS),
    )


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by relative path; byte code, which Triton's stub leaves, does not count."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _tensor_entry(spec: TensorSpec) -> str:
    dims = ", ".join(map(str, spec.dims))
    # Requests of unequal sizes still make one batch.
    ragged = " optional: true allow_ragged_batch: true" if isinstance(spec, InputSpec) else ""
    return f'  {{ name: "{spec.name}" data_type: TYPE_{spec.triton_type} dims: [ {dims} ]{ragged} }}'
