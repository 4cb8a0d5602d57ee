"""The reference sample of an exported version: what the exporting machine made of one request, kept beside the weights.

    <version>/reference.json    the request, every field given
    <version>/reference.glb     the mesh it made

A roll-out asks every server for the same sample and compares. Another device rounds differently, so shapes are compared
by distance and colours by their mean, not bytes; and the files have no part in what makes two versions the same.
numpy, Pillow and scipy only; no torch.

Shape legend: V vertices, F triangles
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic, write_json_atomic
from serving.codec import SampleRequest

REFERENCE_FILE = "reference.json"
REFERENCE_MESH_FILE = "reference.glb"
MAX_DISTANCE = 0.005
"""Mean distance between the two surfaces' vertices, over the diagonal of the reference's box. Other rounding moves
vertices by about 1e-5 of it; another seed or other weights by several hundredths."""
MAX_COLOUR_DIFFERENCE = 0.03
"""Between the mean colours at the vertices, of 1."""
MAX_FACES_RATIO = 1.05
"""A surface that nearly touches a grid vertex may gain or lose triangles by rounding."""

_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_DTYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


class ReferenceMismatch(Exception):
    """A sample is not the reference sample; the message says in what."""


@dataclass(frozen=True)
class Reference:
    request: SampleRequest
    mesh: bytes


@dataclass(frozen=True)
class Comparison:
    """identical: byte for byte. distance, colour_difference: as MAX_DISTANCE and MAX_COLOUR_DIFFERENCE."""

    identical: bool
    distance: float = 0.0
    colour_difference: float = 0.0


def write_reference(folder: Path, request: SampleRequest, mesh: bytes) -> None:
    """Writes both files into a version folder; `mesh` is the GLB of `request`, which gives every field it depends on.

    Raises InputError for a request of anything but a textured GLB.
    """
    if request.file_format != "glb" or None in (
        request.seed,
        request.truncation_psi,
        request.texture_resolution,
    ):
        raise InputError(
            "a reference sample is a GLB of a seed, with truncation_psi and texture_resolution given"
        )
    folder = Path(folder)
    write_bytes_atomic(folder / REFERENCE_MESH_FILE, mesh)
    values = {name: value for name, value in asdict(request).items() if value is not None}
    sha256 = hashlib.sha256(mesh).hexdigest()
    write_json_atomic(folder / REFERENCE_FILE, {"request": values, "mesh_sha256": sha256})


def read_reference(folder: Path) -> Reference:
    """Raises InputError for a version without one."""
    try:
        files = [(Path(folder) / name).read_bytes() for name in (REFERENCE_FILE, REFERENCE_MESH_FILE)]
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no reference sample here; export the model again") from None
    return parse_reference(str(folder), *files)


def parse_reference(folder: str, text: bytes, mesh: bytes) -> Reference:
    """The contents of the two files of `folder`, which is for messages. Raises InputError."""
    try:
        values = json.loads(text)
        request = SampleRequest(**values["request"])
        if hashlib.sha256(mesh).hexdigest() != values["mesh_sha256"]:
            raise ValueError(f"{REFERENCE_MESH_FILE} was changed")
        _read_glb(mesh)
    except (OSError, ValueError, TypeError, KeyError, struct.error, InputError) as error:
        raise InputError(
            f"{folder}/{REFERENCE_FILE}: not a reference sample ({error}); export the model again"
        ) from None
    return Reference(request, mesh)


def compare(reference: bytes, sample: bytes) -> Comparison:
    """How two GLBs differ. Raises ReferenceMismatch when by more than other rounding explains."""
    if reference == sample:
        return Comparison(True)
    expected = _read_glb(reference)
    try:
        found = _read_glb(sample)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, OSError) as error:
        raise ReferenceMismatch(f"the sample is no GLB ({error})") from None
    if not np.isfinite(found.vertices_V3).all():
        raise ReferenceMismatch("the sample has vertices that are not finite")
    fewer, more = sorted((expected.faces, found.faces))
    if more > MAX_FACES_RATIO * fewer:
        raise ReferenceMismatch(
            f"the sample has {found.faces} triangles, the reference sample {expected.faces}"
        )
    distance = _mean_distance(expected.vertices_V3, found.vertices_V3)
    if not distance <= MAX_DISTANCE:
        raise ReferenceMismatch(
            f"the sample's surface is {distance:.2g} of the box's diagonal away from the reference sample's "
            f"(at most {MAX_DISTANCE:g})"
        )
    difference = float(np.abs(expected.colour_3 - found.colour_3).max())
    if not difference <= MAX_COLOUR_DIFFERENCE:
        raise ReferenceMismatch(
            f"the sample's mean colour is {difference:.2g} away from the reference sample's "
            f"(at most {MAX_COLOUR_DIFFERENCE:g})"
        )
    return Comparison(False, distance, difference)


@dataclass(frozen=True)
class _Glb:
    """colour_3: mean of the texture at the vertices."""

    vertices_V3: np.ndarray
    faces: int
    colour_3: np.ndarray


def _read_glb(content: bytes) -> _Glb:
    """The first primitive of a GLB as we write it. Raises ValueError, KeyError and the like for others."""
    from PIL import Image

    magic, _, length = struct.unpack_from("<4sII", content)
    if magic != b"glTF" or length != len(content):
        raise ValueError("not a whole GLB")
    chunks, position = {}, 12
    while position < length:
        size, kind = struct.unpack_from("<II", content, position)
        chunks[kind] = content[position + 8 : position + 8 + size]
        position += 8 + size
    document, binary = json.loads(chunks[_JSON_CHUNK]), chunks[_BINARY_CHUNK]
    primitive = document["meshes"][0]["primitives"][0]
    vertices_V3 = _accessor(document, binary, primitive["attributes"]["POSITION"])
    uvs_V2 = _accessor(document, binary, primitive["attributes"]["TEXCOORD_0"])
    faces = document["accessors"][primitive["indices"]]["count"] // 3
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    start = view.get("byteOffset", 0)
    with Image.open(io.BytesIO(binary[start : start + view["byteLength"]])) as image:
        texture_HW3 = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    # glTF's v runs down from the top row, as the array does.
    texels_V2 = np.clip(uvs_V2, 0.0, 1.0) * (np.array(texture_HW3.shape[1::-1]) - 1)
    columns_V, rows_V = np.rint(texels_V2).astype(np.int64).T
    return _Glb(vertices_V3, faces, texture_HW3[rows_V, columns_V].mean(axis=0))


def _accessor(document: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    width = _WIDTHS[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    array = np.frombuffer(
        binary, _DTYPES[accessor["componentType"]], count=accessor["count"] * width, offset=start
    )
    return array.reshape(-1, width)


def _mean_distance(first_V3: np.ndarray, second_V3: np.ndarray) -> float:
    """Mean distance to the nearest vertex of the other, the larger of both ways, over the first's diagonal."""
    from scipy.spatial import cKDTree

    diagonal = float(np.linalg.norm(np.ptp(first_V3, axis=0)))
    ways = ((first_V3, second_V3), (second_V3, first_V3))
    return max(float(cKDTree(to).query(of)[0].mean()) for of, to in ways) / max(diagonal, 1e-9)
