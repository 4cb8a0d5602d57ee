"""The Triton model repository that `get3d export` writes and `get3d serve` serves.

    REPOSITORY/get3d/config.pbtxt            rendered from the template
    REPOSITORY/get3d/<version>/model.py      what Triton runs
    REPOSITORY/get3d/<version>/generator_ema.safetensors
    REPOSITORY/get3d/<version>/model_card.json

Free of torch: the server's parent process needs none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from serving.codec import INPUTS, MODEL_NAME, OUTPUTS, InputSpec, SampleRequest, TensorSpec

TEMPLATE_DIR = Path(__file__).parent / "model_repository" / MODEL_NAME
CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.py"
CARD_FILE = "model_card.json"
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
class ModelCard:
    """What a version is: which weights, how they were trained, and how it answers.

    checkpoint: the weight file's description without its configuration (kimg, data set hash ...).
    config: the whole params the model was trained with. files: SHA-256 of each other file of the version.
    """

    name: str
    checkpoint_sha256: str
    checkpoint: dict[str, Any]
    config: dict[str, Any]
    defaults: Defaults
    max_batch_size: int
    package_version: str
    files: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_model_card(version_folder: Path) -> ModelCard:
    """Raises InputError for a folder that `get3d export` did not write."""
    path = Path(version_folder) / CARD_FILE
    try:
        values = json.loads(path.read_text())
        return ModelCard(**{**values, "defaults": Defaults(**values["defaults"])})
    except FileNotFoundError:
        raise InputError(f"{path}: no model card here; make the repository with get3d export") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a model card ({error}); export the model again") from None


def versions(repository: Path) -> list[int]:
    """The versions of the model in a repository, ascending; none where there is no repository yet."""
    folder = Path(repository) / MODEL_NAME
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    # Triton reads only plain positive numbers as versions.
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0")


def check_repository(repository: Path) -> None:
    """Raises InputError unless `repository` holds a model, and what would be served is what was exported."""
    repository = Path(repository)
    fix = f"make one with: get3d export --checkpoint FILE --repository {repository}"
    if not repository.is_dir():
        raise InputError(f"{repository}: no such model repository; {fix}")
    if not (repository / MODEL_NAME / CONFIG_FILE).is_file() or not versions(repository):
        raise InputError(f"{repository}: holds no {MODEL_NAME} model; {fix}")
    for number in versions(repository)[-SERVED_VERSIONS:]:
        folder = repository / MODEL_NAME / str(number)
        card, present = read_model_card(folder), file_hashes(folder)
        for name, sha256 in card.files.items():
            if present.get(name) != sha256:
                raise InputError(
                    f"{folder / name}: missing or changed after it was exported; export the model again"
                )


def render_config(max_batch_size: int) -> str:
    """The text of `config.pbtxt`."""
    template = Template((TEMPLATE_DIR / f"{CONFIG_FILE}.template").read_text())
    return template.substitute(
        name=MODEL_NAME,
        max_batch_size=max_batch_size,
        served_versions=SERVED_VERSIONS,
        inputs=",\n".join(_tensor_entry(spec) for spec in INPUTS),
        outputs=",\n".join(_tensor_entry(spec) for spec in OUTPUTS),
    )


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by relative path; left-over byte code does not count."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _tensor_entry(spec: TensorSpec) -> str:
    dims = ", ".join(map(str, spec.dims))
    # Requests of unequal sizes still make one batch.
    ragged = " optional: true allow_ragged_batch: true" if isinstance(spec, InputSpec) else ""
    return f'  {{ name: "{spec.name}" data_type: TYPE_{spec.triton_type} dims: [ {dims} ]{ragged} }}'
