"""The tensors of the wire format, as tables: names, types, shapes, limits. `serving.codec` is what to import.

Shape legend: N rows of a request, K latents that are mixed, Z width of a latent, D width of w
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from get3d_model.limits import MAX_SEED, MAX_TEXTURE_RESOLUTION, MAX_TRUNCATION_PSI, MIN_TEXTURE_RESOLUTION
from serving import fields as checks

REFUSALS = "get3d_refusals"
"""Request parameter: how often a full queue has refused this client since it last said so. Triton counts it nowhere."""

MODEL_NAME = "get3d"

FORMAT_SUFFIX = {"glb": ".glb", "obj": ".obj.zip", "ply": ".ply"}
"""File suffix of what each format delivers; an OBJ comes as a zip of .obj, .mtl and .png."""
COLORS = ("texture", "vertex")
COLORED_FORMATS = ("glb", "ply")
"""Formats that can carry colours at vertices alone."""
DELIVERIES = ("mesh", "latent", "preview")
MIN_TRIANGLES, MAX_TRIANGLES = 64, 1_000_000
MIN_PREVIEW, MAX_PREVIEW, MAX_FRAMES = 32, 1024, 32
MAX_RESPONSE_BYTES = 64 << 20
"""Of one mesh with its previews. A batch holds max_batch_size of them in shared memory at most."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the wire format; its shape is (N, *dims), -1 for any size.

    triton_type: as in `config.pbtxt`, less TYPE_. meaning, limits: for the documentation.
    """

    name: str
    triton_type: str
    dtype: type
    dims: tuple[int, ...] = (1,)
    meaning: str = ""
    limits: str = ""
    optional: bool = True

    @property
    def wire_type(self) -> str:
        """The type's name in requests, which differs from `config.pbtxt`'s for strings."""
        return "BYTES" if self.triton_type == "STRING" else self.triton_type


@dataclass(frozen=True)
class InputSpec(TensorSpec):
    """attribute: the field of `SampleRequest`. check: (name, value) -> the value as kept there."""

    attribute: str = ""
    check: Callable[[str, Any], Any] = checks.text


def _int64(name: str, attribute: str, check: Any, meaning: str, limits: str) -> InputSpec:
    return InputSpec(name, "INT64", np.int64, (-1,), meaning, limits, True, attribute, check)


def _int32(name: str, check: Any, meaning: str, limits: str) -> InputSpec:
    return InputSpec(name, "INT32", np.int32, (1,), meaning, limits, True, name, check)


def _fp32(name: str, check: Any, meaning: str, limits: str, dims: tuple[int, ...] = (1,)) -> InputSpec:
    return InputSpec(name, "FP32", np.float32, dims, meaning, limits, True, name, check)


def _word(name: str, attribute: str, check: Any, meaning: str, limits: str) -> InputSpec:
    return InputSpec(name, "STRING", np.object_, (1,), meaning, limits, True, attribute, check)


_SEEDS = f"0 to {MAX_SEED}; 1 to {checks.MAX_MIXED} of them"
_VECTORS = f"finite; 1 to {checks.MAX_MIXED} rows of the model's width"
_SHARES = "0 to 1 each, sum 1; one per latent"
SEED = _int64("seed", "seed", checks.seeds, "what geometry and texture are drawn from", _SEEDS)
SEED_TEX = _int64("seed_tex", "seed_tex", checks.seeds, "draws the texture from another seed", _SEEDS)
Z_GEO, Z_TEX, W_GEO, W_TEX = (
    _fp32(name, checks.latents, meaning, _VECTORS, (-1, -1))
    for name, meaning in (
        ("z_geo", "latents of the geometry instead of a seed, K x Z"),
        ("z_tex", "latents of the texture instead of a seed, K x Z"),
        ("w_geo", "mapped latents of the geometry, used as they are: truncation does not apply, K x D"),
        ("w_tex", "mapped latents of the texture, used as they are, K x D"),
    )
)
WEIGHTS = _fp32("weights", checks.weights, "shares of several latents, mixed in w", _SHARES, (-1,))
WEIGHTS_TEX = _fp32(
    "weights_tex", checks.weights, "shares for the texture; absent: those of the geometry", _SHARES, (-1,)
)
CLASS = _word(
    "class",
    "class_name",
    checks.text,
    "class of a class-conditional model; absent: the one the seed draws",
    "a name or number of the model card",
)
TRUNCATION_PSI = _fp32(
    "truncation_psi",
    checks.psi,
    "how far from the average shape; 1: no truncation",
    f"0 to {MAX_TRUNCATION_PSI:g}",
)
DELIVER = _word(
    "deliver",
    "deliver",
    checks.some_of(DELIVERIES),
    "what to make; absent: mesh",
    "mesh, latent, preview, or several with commas",
)
FORMAT = _word(
    "format", "file_format", checks.one_of(tuple(FORMAT_SUFFIX)), "file format", ", ".join(FORMAT_SUFFIX)
)
COLOR = _word(
    "color",
    "color",
    checks.one_of(COLORS),
    "a texture image, or colours at the vertices (glb and ply; quicker); absent: texture",
    ", ".join(COLORS),
)
TEXTURE_RESOLUTION = _int32(
    "texture_resolution",
    checks.texture_resolution,
    "side of the texture in texels",
    f"a power of two, {MIN_TEXTURE_RESOLUTION} to {MAX_TEXTURE_RESOLUTION}",
)
TARGET_TRIANGLES = _int32(
    "target_triangles",
    checks.integer(MIN_TRIANGLES, MAX_TRIANGLES),
    "decimates a mesh that has more; the texture is made afterwards",
    f"{MIN_TRIANGLES} to {MAX_TRIANGLES}",
)
PREVIEW_RESOLUTION = _int32(
    "preview_resolution",
    checks.integer(MIN_PREVIEW, MAX_PREVIEW),
    "side of a preview in pixels; absent: 256",
    f"{MIN_PREVIEW} to {MAX_PREVIEW}",
)
PREVIEW_AZIMUTH_DEG = _fp32(
    "preview_azimuth_deg",
    checks.real(-360.0, 360.0),
    "where the camera stands around +y; the data set's rotation; absent: 30",
    "-360 to 360",
)
PREVIEW_ELEVATION_DEG = _fp32(
    "preview_elevation_deg",
    checks.real(-89.0, 89.0),
    "degrees above the horizon; absent: 18",
    "-89 to 89",
)
PREVIEW_FRAMES = _int32(
    "preview_frames",
    checks.integer(1, MAX_FRAMES),
    "pictures of a whole turn, the first from the azimuth given; absent: 1",
    f"1 to {MAX_FRAMES}",
)
INPUTS = (
    SEED, SEED_TEX, Z_GEO, Z_TEX, W_GEO, W_TEX, WEIGHTS, WEIGHTS_TEX, CLASS, TRUNCATION_PSI, DELIVER, FORMAT, COLOR,
    TEXTURE_RESOLUTION, TARGET_TRIANGLES, PREVIEW_RESOLUTION, PREVIEW_AZIMUTH_DEG, PREVIEW_ELEVATION_DEG,
    PREVIEW_FRAMES,
)  # fmt: skip

MESH = TensorSpec("mesh", "STRING", np.object_, (1,), "the file; empty unless mesh is delivered")
METADATA = TensorSpec("metadata", "STRING", np.object_, (1,), "JSON, see below")
PREVIEW = TensorSpec(
    "preview", "STRING", np.object_, (-1,), "PNG pictures (RGBA); a row with fewer ends with empty ones"
)
LATENT_GEO = TensorSpec(
    "latent_geo", "FP32", np.float32, (-1,), "w of the geometry as used, D; feed it as w_geo"
)
LATENT_TEX = TensorSpec(
    "latent_tex", "FP32", np.float32, (-1,), "w of the texture as used, D; feed it as w_tex"
)
OUTPUTS = (MESH, METADATA, PREVIEW, LATENT_GEO, LATENT_TEX)
