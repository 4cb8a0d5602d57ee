"""The one definition of what travels between a client and the served model: names, types, shapes, limits.

numpy only, so that clients need no torch. One row of a request is one mesh; a request usually has one row,
and Triton's dynamic batcher puts the requests of several clients together.

Shape legend: N rows of a request
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from get3d_model.errors import InputError
from get3d_model.limits import check_psi, check_seed, check_texture_resolution

MODEL_NAME = "get3d"

FORMAT_SUFFIX = {"glb": ".glb", "obj": ".obj.zip", "ply": ".ply"}
"""File suffix of what each format delivers; an OBJ comes as a zip of .obj, .mtl and .png."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the wire format; its shape is (N, 1). `triton_type` as in `config.pbtxt`, less TYPE_."""

    name: str
    triton_type: str
    dtype: type
    optional: bool = False

    @property
    def wire_type(self) -> str:
        """The type's name in requests, which differs from `config.pbtxt`'s for strings."""
        return "BYTES" if self.triton_type == "STRING" else self.triton_type


SEED = TensorSpec("seed", "INT64", np.int64)
TRUNCATION_PSI = TensorSpec("truncation_psi", "FP32", np.float32, optional=True)
TEXTURE_RESOLUTION = TensorSpec("texture_resolution", "INT32", np.int32, optional=True)
FORMAT = TensorSpec("format", "STRING", np.object_, optional=True)
INPUTS = (SEED, TRUNCATION_PSI, TEXTURE_RESOLUTION, FORMAT)

MESH = TensorSpec("mesh", "STRING", np.object_)
METADATA = TensorSpec("metadata", "STRING", np.object_)
OUTPUTS = (MESH, METADATA)


@dataclass(frozen=True)
class SampleRequest:
    """What to sample; None leaves the choice to the served model's defaults.

    seed: 0 .. 2^63 - 1.
    truncation_psi: 0 (the average shape) .. 1 (no truncation) .. 2; rounded to float32, which travels.
    texture_resolution: side of the texture in texels, a power of two from 64 to 4096.
    file_format: "glb", "obj" or "ply".
    Raises InputError.
    """

    seed: int
    truncation_psi: float | None = None
    texture_resolution: int | None = None
    file_format: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", _integer(SEED.name, self.seed))
        check_seed(self.seed)
        if self.truncation_psi is not None:
            object.__setattr__(self, "truncation_psi", _checked_psi(self.truncation_psi))
        if self.texture_resolution is not None:
            object.__setattr__(self, "texture_resolution", _checked_resolution(self.texture_resolution))
        if self.file_format is not None and self.file_format not in FORMAT_SUFFIX:
            raise InputError(
                f"format {self.file_format!r} is not offered; use one of {', '.join(FORMAT_SUFFIX)}"
            )


@dataclass(frozen=True)
class SampleMetadata:
    """What the server says about a mesh.

    texture_resolution, file_format, truncation_psi: as used, defaults filled in.
    empty: the sampled field had no surface, and the mesh is the stand-in shape.
    bytes: length of the file. model, version: names in the repository. kimg, checkpoint_sha256: the weights.
    batch_size: meshes that went through the networks together.
    milliseconds: duration per stage; "networks" is that of the whole batch.
    """

    seed: int
    truncation_psi: float
    texture_resolution: int
    file_format: str
    vertices: int
    faces: int
    empty: bool
    bytes: int
    model: str
    version: str
    kimg: float
    checkpoint_sha256: str
    batch_size: int
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleResponse:
    """A mesh file and what is known about it."""

    mesh: bytes
    metadata: SampleMetadata


def encode_requests(requests: Sequence[SampleRequest]) -> dict[str, np.ndarray]:
    """The input tensors of a request with one row per element. Raises InputError.

    A field that is None everywhere is left out; one that is None in some rows only cannot be expressed.
    """
    if not requests:
        raise InputError("a request needs at least one row")
    columns = {
        SEED: [request.seed for request in requests],
        TRUNCATION_PSI: [request.truncation_psi for request in requests],
        TEXTURE_RESOLUTION: [request.texture_resolution for request in requests],
        FORMAT: [None if r.file_format is None else r.file_format.encode() for r in requests],
    }
    arrays = {}
    for spec, values in columns.items():
        given = [value is not None for value in values]
        if any(given) and not all(given):
            raise InputError(f"{spec.name} is given in some rows only; give it in all of them or in none")
        if any(given):
            arrays[spec.name] = np.array(values, dtype=spec.dtype).reshape(-1, 1)
    return arrays


def decode_requests(arrays: Mapping[str, np.ndarray]) -> list[SampleRequest]:
    """The rows of a request. Raises InputError for missing tensors, wrong types or shapes and bad values."""
    unknown = sorted(arrays.keys() - {spec.name for spec in INPUTS})
    if unknown:
        raise InputError(f"unknown input {unknown[0]}; the inputs are {', '.join(s.name for s in INPUTS)}")
    columns: dict[str, list[Any]] = {}
    for spec in INPUTS:
        if spec.name in arrays:
            columns[spec.name] = _column(spec, arrays[spec.name])
        elif not spec.optional:
            raise InputError(f"input {spec.name} is missing")
    rows = len(columns[SEED.name])
    for name, values in columns.items():
        if len(values) != rows:
            raise InputError(
                f"input {name} has {len(values)} rows, {SEED.name} has {rows}; give one row per mesh"
            )
    nothing = [None] * rows
    return [
        SampleRequest(seed, psi, resolution, None if name is None else _text(FORMAT.name, name))
        for seed, psi, resolution, name in zip(
            columns[SEED.name],
            columns.get(TRUNCATION_PSI.name, nothing),
            columns.get(TEXTURE_RESOLUTION.name, nothing),
            columns.get(FORMAT.name, nothing),
            strict=True,
        )
    ]


def encode_responses(responses: Sequence[SampleResponse]) -> dict[str, np.ndarray]:
    """The output tensors, one row per mesh."""
    arrays = {}
    for spec, values in (
        (MESH, [response.mesh for response in responses]),
        (METADATA, [json.dumps(vars(r.metadata), sort_keys=True).encode() for r in responses]),
    ):
        array = np.empty((len(values), 1), dtype=np.object_)
        array[:, 0] = values
        arrays[spec.name] = array
    return arrays


def decode_responses(arrays: Mapping[str, np.ndarray]) -> list[SampleResponse]:
    """The rows of an answer. Fields that a newer server adds to the metadata are ignored.

    Raises ValueError for an answer that is not this model's.
    """
    try:
        meshes, texts = (arrays[spec.name][:, 0].tolist() for spec in OUTPUTS)
        known = SampleMetadata.__dataclass_fields__.keys()
        values = [{k: v for k, v in json.loads(text).items() if k in known} for text in texts]
        return [SampleResponse(m, SampleMetadata(**v)) for m, v in zip(meshes, values, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the answer is not one of a {MODEL_NAME} model: {error}") from error


def _column(spec: TensorSpec, array: np.ndarray) -> list[Any]:
    if array.dtype != spec.dtype:
        raise InputError(f"input {spec.name} must be {spec.wire_type}, not {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 1 or not len(array):
        raise InputError(f"input {spec.name} must have the shape [rows, 1], not {list(array.shape)}")
    return array[:, 0].tolist()


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"{name} must be an integer, not {value!r}")
    return int(value)


def _checked_resolution(value: Any) -> int:
    value = _integer(TEXTURE_RESOLUTION.name, value)
    check_texture_resolution(value)
    return value


def _checked_psi(value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise InputError(f"truncation_psi must be a number, not {value!r}")
    check_psi(value)
    # The shortest decimal that is this float32: 0.7 arrives as 0.7, not as 0.699999988.
    return float(str(np.float32(value)))


def _text(name: str, value: Any) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise InputError(f"{name} {value!r} is not text; use one of {', '.join(FORMAT_SUFFIX)}") from None
