"""The one definition of what travels between a client and the served model: names, types, shapes, limits.

numpy only, so that clients need no torch. One row of a request is one mesh; a request usually has one row, and
Triton's dynamic batcher puts the requests of several clients together. The tensors themselves are tables in
`serving.tensors`, from which `docs/serving-api.md` is made (`python -m serving.api_doc`).

Shape legend: N rows of a request, K latents that are mixed, Z width of a latent, D width of w, P previews
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from get3d_model.errors import InputError
from get3d_model.limits import MAX_SEED
from serving import fields as checks
from serving.tensors import (
    COLORED_FORMATS,
    COLORS,
    DELIVERIES,
    FORMAT_SUFFIX,
    INPUTS,
    LATENT_GEO,
    LATENT_TEX,
    MAX_RESPONSE_BYTES,
    MESH,
    METADATA,
    MODEL_NAME,
    OUTPUTS,
    PREVIEW,
    SEED,
    InputSpec,
    TensorSpec,
)

__all__ = [
    "COLORED_FORMATS",
    "COLORS",
    "DELIVERIES",
    "FORMAT_SUFFIX",
    "INPUTS",
    "MAX_RESPONSE_BYTES",
    "MODEL_NAME",
    "OUTPUTS",
    "InputSpec",
    "SampleMetadata",
    "SampleRequest",
    "SampleResponse",
    "TensorSpec",
    "check_size",
    "consecutive",
    "decode_requests",
    "decode_responses",
    "encode_requests",
    "encode_responses",
    "requested_outputs",
]

_SOURCES = {"geometry": ("seed", "z_geo", "w_geo"), "texture": ("seed_tex", "z_tex", "w_tex")}


@dataclass(frozen=True)
class SampleRequest:
    """What to sample; None leaves the choice to the served model's defaults. Meanings and limits: `INPUTS`.

    The geometry comes from one of seed, z_geo, w_geo; the texture from one of seed_tex, z_tex, w_tex, or, where none
    is given, from `seed`. Several latents of a part are mixed by `weights` (in w), which is then needed.
    truncation_psi is rounded to float32, which travels. Raises InputError.
    """

    seed: int | tuple[int, ...] | None = None
    truncation_psi: float | None = None
    texture_resolution: int | None = None
    file_format: str | None = None
    seed_tex: int | tuple[int, ...] | None = None
    z_geo: checks.Latents | None = None
    z_tex: checks.Latents | None = None
    w_geo: checks.Latents | None = None
    w_tex: checks.Latents | None = None
    weights: tuple[float, ...] | None = None
    weights_tex: tuple[float, ...] | None = None
    class_name: str | None = None
    deliver: str | None = None
    color: str | None = None
    target_triangles: int | None = None
    preview_resolution: int | None = None
    preview_azimuth_deg: float | None = None
    preview_elevation_deg: float | None = None
    preview_frames: int | None = None

    def __post_init__(self) -> None:
        for spec in INPUTS:
            value = getattr(self, spec.attribute)
            if value is not None:
                object.__setattr__(self, spec.attribute, spec.check(spec.name, value))
        for part, names in _SOURCES.items():
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                raise InputError(f"the {part} is given by {' and '.join(given)}; give one of them")
        if all(getattr(self, name) is None for name in _SOURCES["geometry"]):
            raise InputError(f"nothing says which geometry; give one of {', '.join(_SOURCES['geometry'])}")
        if self.seed is None and all(getattr(self, name) is None for name in _SOURCES["texture"]):
            raise InputError(f"nothing says which texture; give one of {', '.join(_SOURCES['texture'])}")
        self._check_weights()
        if self.color == "vertex" and self.file_format not in (None, *COLORED_FORMATS):
            raise InputError(
                f"format {self.file_format!r} has no colours at vertices; use {' or '.join(COLORED_FORMATS)}"
            )

    def latents_geo(self) -> tuple[str, Any]:
        """(which field the geometry comes from, its values one per latent)."""
        return self._source("geometry")

    def latents_tex(self) -> tuple[str, Any]:
        """As `latents_geo`, of the texture; "seed" where it goes with the geometry."""
        return self._source("texture")

    def delivers(self, what: str) -> bool:
        """Whether the answer holds a "mesh", "latent" or "preview"."""
        return what in (self.deliver or "mesh").split(",")

    @property
    def needs_shape(self) -> bool:
        """Whether more is asked for than latents, which need no field and no surface."""
        return self.delivers("mesh") or self.delivers("preview")

    def _source(self, part: str) -> tuple[str, Any]:
        name = next((name for name in _SOURCES[part] if getattr(self, name) is not None), "seed")
        value = getattr(self, name)
        return name, (value,) if isinstance(value, int) else value

    def _check_weights(self) -> None:
        for part, name in (("geometry", "weights"), ("texture", "weights_tex")):
            shares = self.weights if getattr(self, name) is None else getattr(self, name)
            source, values = self._source(part)
            if shares is None and len(values) > 1:
                raise InputError(f"{source} has {len(values)} latents; say by {name} how to mix them")
            if shares is not None and len(shares) != len(values):
                # One latent needs no shares: the other part's do not concern it.
                if name == "weights_tex" and self.weights_tex is None and len(values) == 1:
                    continue
                raise InputError(
                    f"{source} has {len(values)} latents, {name} {len(shares)} shares; give equally many"
                )


def consecutive(request: SampleRequest, count: int) -> list[SampleRequest]:
    """`count` requests with the seeds from `request.seed` on, for instance the rows of one call. Raises InputError."""
    if not isinstance(request.seed, int):
        raise InputError("count needs one seed to start from")
    if count < 1:
        raise InputError(f"count must be at least 1, not {count}")
    if request.seed + count - 1 > MAX_SEED:
        raise InputError(f"seed {request.seed} with count {count} passes the largest seed, {MAX_SEED}")
    return [replace(request, seed=request.seed + index) for index in range(count)]


def check_size(request: SampleRequest) -> None:
    """Raises InputError where the answer to a request with all its fields given may pass MAX_RESPONSE_BYTES."""
    most = 0
    if request.delivers("mesh") and request.color != "vertex":
        most += 3 * request.texture_resolution**2
    if request.delivers("preview"):
        most += 4 * request.preview_frames * request.preview_resolution**2
    if most > MAX_RESPONSE_BYTES:
        raise InputError(
            f"the answer may take {most >> 20} MiB, more than {MAX_RESPONSE_BYTES >> 20}; lower preview_frames, "
            "preview_resolution or texture_resolution"
        )


@dataclass(frozen=True)
class SampleMetadata:
    """What the server says about a mesh.

    seed, seed_tex: as asked for; none for explicit latents, a list where several were mixed.
    texture_resolution, file_format, truncation_psi: as used, defaults filled in.
    empty: the sampled field had no surface, and the mesh is the stand-in shape; none where latents alone were asked for.
    bytes: length of the file. model, version: names in the repository. kimg, checkpoint_sha256: the weights.
    batch_size: meshes that went through the networks together.
    milliseconds: duration per stage; "networks" and "extraction" are those of the whole batch.
    watertight: of the mesh without texture seams; none where no mesh is delivered.
    triangles_before: of the mesh before it was decimated, none where it was not. class_name: of a conditional model.
    """

    seed: int | list[int] | None
    truncation_psi: float
    texture_resolution: int
    file_format: str
    vertices: int
    faces: int
    empty: bool | None
    bytes: int
    model: str
    version: str
    kimg: float
    checkpoint_sha256: str
    batch_size: int
    milliseconds: dict[str, float] = field(default_factory=dict)
    watertight: bool | None = None
    color: str = "texture"
    triangles_before: int | None = None
    class_name: str | None = None
    seed_tex: int | list[int] | None = None

    @property
    def triangles(self) -> int:
        return self.faces


@dataclass(frozen=True)
class SampleResponse:
    """A mesh file and what is known about it.

    previews: PNG files. latent_geo, latent_tex: float32 w as used, D; none unless latents were asked for.
    """

    mesh: bytes
    metadata: SampleMetadata
    previews: tuple[bytes, ...] = ()
    latent_geo: np.ndarray | None = field(default=None, compare=False)
    latent_tex: np.ndarray | None = field(default=None, compare=False)


def encode_requests(requests: Sequence[SampleRequest]) -> dict[str, np.ndarray]:
    """The input tensors of a request with one row per element. Raises InputError.

    A field that is None everywhere is left out; one that is None in some rows only cannot be expressed, nor rows
    that mix different numbers of latents.
    """
    if not requests:
        raise InputError("a request needs at least one row")
    arrays = {}
    for spec in INPUTS:
        values = [getattr(request, spec.attribute) for request in requests]
        given = [value is not None for value in values]
        if any(given) and not all(given):
            raise InputError(f"{spec.name} is given in some rows only; give it in all of them or in none")
        if any(given):
            arrays[spec.name] = _encoded(spec, values)
    return arrays


def decode_requests(arrays: Mapping[str, np.ndarray]) -> list[SampleRequest]:
    """The rows of a request. Raises InputError for missing tensors, wrong types or shapes and bad values."""
    known = {spec.name: spec for spec in INPUTS}
    unknown = sorted(arrays.keys() - known.keys())
    if unknown:
        raise InputError(f"unknown input {unknown[0]}; the inputs are {', '.join(known)}")
    if not arrays:
        raise InputError(f"input {SEED.name} is missing")
    columns = {known[name].attribute: _column(known[name], array) for name, array in arrays.items()}
    first, rows = next((name, len(array)) for name, array in arrays.items())
    for name, array in arrays.items():
        if len(array) != rows:
            raise InputError(f"input {name} has {len(array)} rows, {first} has {rows}; give one row per mesh")
    return [SampleRequest(**{name: column[row] for name, column in columns.items()}) for row in range(rows)]


def encode_responses(responses: Sequence[SampleResponse]) -> dict[str, np.ndarray]:
    """The output tensors, one row per mesh; previews and latents only where a row has them."""
    texts = [json.dumps(vars(r.metadata), sort_keys=True).encode() for r in responses]
    arrays = {
        MESH.name: _objects([[response.mesh] for response in responses]),
        METADATA.name: _objects([[text] for text in texts]),
    }
    most = max(len(response.previews) for response in responses)
    if most:
        arrays[PREVIEW.name] = _objects([[*r.previews, *[b""] * (most - len(r.previews))] for r in responses])
    for spec in (LATENT_GEO, LATENT_TEX):
        values = [getattr(response, spec.name) for response in responses]
        given = [value for value in values if value is not None]
        if given:
            # A row that asked for none gets NaN in its place, which `decode_responses` takes away again.
            missing = np.full_like(given[0], np.nan)
            rows = [missing if value is None else value for value in values]
            arrays[spec.name] = np.stack(rows).astype(spec.dtype)
    return arrays


def decode_responses(arrays: Mapping[str, np.ndarray | None]) -> list[SampleResponse]:
    """The rows of an answer. Fields that a newer server adds to the metadata are ignored.

    Raises ValueError for an answer that is not this model's.
    """
    try:
        meshes, texts = (arrays[spec.name][:, 0].tolist() for spec in (MESH, METADATA))
        known = SampleMetadata.__dataclass_fields__.keys()
        values = [{k: v for k, v in json.loads(text).items() if k in known} for text in texts]
        previews, geo, tex = (arrays.get(spec.name) for spec in (PREVIEW, LATENT_GEO, LATENT_TEX))
        return [
            SampleResponse(
                mesh,
                SampleMetadata(**value),
                () if previews is None else tuple(png for png in previews[row].tolist() if png),
                _latent(geo, row),
                _latent(tex, row),
            )
            for row, (mesh, value) in enumerate(zip(meshes, values, strict=True))
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the answer is not one of a {MODEL_NAME} model: {error}") from error


def requested_outputs(requests: Sequence[SampleRequest]) -> list[str]:
    """Names of the outputs that answers to these requests hold; what a client asks the server for."""
    names = [MESH.name, METADATA.name]
    if any(request.delivers("preview") for request in requests):
        names.append(PREVIEW.name)
    if any(request.delivers("latent") for request in requests):
        names += [LATENT_GEO.name, LATENT_TEX.name]
    return names


def _encoded(spec: InputSpec, values: list[Any]) -> np.ndarray:
    if spec.dtype is np.object_:
        return _objects([[value.encode()] for value in values])
    shape = (len(values), *spec.dims)
    rows = [np.asarray(value, dtype=spec.dtype).reshape(_row_shape(spec, value)) for value in values]
    if len({row.shape for row in rows}) > 1:
        raise InputError(f"{spec.name} has rows of different shapes; send them one by one")
    return np.stack(rows).reshape([len(values), *rows[0].shape] if -1 in shape else shape)


def _row_shape(spec: InputSpec, value: Any) -> tuple[int, ...]:
    if len(spec.dims) == 2:
        return (len(value), len(value[0]))
    return (len(value),) if isinstance(value, tuple) else (1,)


def _column(spec: InputSpec, array: np.ndarray) -> list[Any]:
    """One value per row, as `spec.check` takes it."""
    if array.dtype != spec.dtype:
        raise InputError(f"input {spec.name} must be {spec.wire_type}, not {array.dtype}")
    fits = array.ndim == 1 + len(spec.dims) and all(
        size in (-1, length) for size, length in zip(spec.dims, array.shape[1:], strict=True)
    )
    if not fits or not array.size:
        wanted = ", ".join(["rows", *("any" if size < 0 else str(size) for size in spec.dims)])
        raise InputError(f"input {spec.name} must have the shape [{wanted}], not {list(array.shape)}")
    return list(array) if -1 in spec.dims else array[:, 0].tolist()


def _objects(rows: list[list[bytes]]) -> np.ndarray:
    array = np.empty((len(rows), len(rows[0])), dtype=np.object_)
    for index, row in enumerate(rows):
        array[index] = row
    return array


def _latent(array_ND: np.ndarray | None, row: int) -> np.ndarray | None:
    if array_ND is None or np.isnan(array_ND[row]).any():
        return None
    return array_ND[row].astype(np.float32)
