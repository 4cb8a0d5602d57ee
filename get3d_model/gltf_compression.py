"""glTF with compressed or quantised geometry, rewritten so that any reader sees plain floats and indices.

Sources: KHR_draco_mesh_compression (decoded by the package DracoPy), KHR_mesh_quantization, and section 3.6.2 of the
glTF 2.0 specification (accessors, normalised integers).

Shape legend: N elements of an accessor, C components
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from get3d_model.errors import InputError

DRACO = "KHR_draco_mesh_compression"
FLOAT, UNSIGNED_INT = 5126, 5125
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
# A Draco stream of a few bytes may claim to hold any number of points.
MAX_DRACO_ELEMENTS = 1 << 27


def needs_decoding(document: dict[str, Any]) -> bool:
    """Whether something in the file is Draco-compressed, or a position or texture coordinate is no float."""
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            if DRACO in primitive.get("extensions", {}):
                return True
            for name, index in primitive["attributes"].items():
                if _is_vertex(name) and document["accessors"][index]["componentType"] != FLOAT:
                    return True
    return False


def decoded(path: Path, document: dict[str, Any], binary: bytes) -> tuple[dict[str, Any], bytes]:
    """(document, binary chunk) with every buffer in the chunk, Draco decoded and vertices as floats.

    document: of `path`, changed in place; its files exist. binary: content of a GLB's binary chunk.
    Raises InputError for Draco data that cannot be decoded; KeyError and the like for a damaged structure.
    """
    content = bytearray()
    starts = []
    for number, buffer in enumerate(document.get("buffers", [])):
        content += b"\0" * (-len(content) % 4)
        starts.append(len(content))
        content += _buffer(path, buffer, binary if number == 0 else b"")
    for view in document.get("bufferViews", []):
        view["byteOffset"] = view.get("byteOffset", 0) + starts[view["buffer"]]
        view["buffer"] = 0
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            if DRACO in primitive.get("extensions", {}):
                _decode_draco(path, document, content, primitive)
    done: dict[int, int] = {}
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            for name, index in primitive["attributes"].items():
                accessor = document["accessors"][index]
                if _is_vertex(name) and accessor["componentType"] != FLOAT:
                    if index not in done:
                        values_NC = _read(document, content, accessor)
                        done[index] = _append(document, content, values_NC.astype("<f4"))
                    primitive["attributes"][name] = done[index]
    for kind in ("extensionsUsed", "extensionsRequired"):
        left = [name for name in document.get(kind, []) if name not in (DRACO, "KHR_mesh_quantization")]
        document.pop(kind, None)
        if left:
            document[kind] = left
    content += b"\0" * (-len(content) % 4)
    document["buffers"] = [{"byteLength": len(content)}]
    return document, bytes(content)


def _is_vertex(name: str) -> bool:
    return name == "POSITION" or name.startswith("TEXCOORD_")


def _buffer(path: Path, buffer: dict[str, Any], chunk: bytes) -> bytes:
    uri = buffer.get("uri")
    if uri is None:
        return chunk[: buffer["byteLength"]]
    if uri.startswith("data:"):
        return base64.b64decode(uri.partition(",")[2])
    return (path.parent / unquote(uri)).read_bytes()


def _decode_draco(
    path: Path, document: dict[str, Any], content: bytearray, primitive: dict[str, Any]
) -> None:
    try:
        import DracoPy
    except ImportError as error:
        raise InputError(
            f"{path}: uses Draco compression; pip install DracoPy, or export it without"
        ) from error
    extension = primitive["extensions"].pop(DRACO)
    view = document["bufferViews"][extension["bufferView"]]
    stream = bytes(content[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
    counts = [document["accessors"][index]["count"] for index in primitive["attributes"].values()]
    if max(counts, default=0) > MAX_DRACO_ELEMENTS:
        raise InputError(f"{path}: claims to hold {max(counts)} vertices under Draco compression")
    try:
        mesh = DracoPy.decode(stream)
        attributes = {int(entry["unique_id"]): np.asarray(entry["data"]) for entry in mesh.attributes}
        faces_F3 = np.asarray(mesh.faces)
    except Exception as error:  # it raises whatever its C++ makes of damaged bytes
        raise InputError(
            f"{path}: its Draco data cannot be decoded ({type(error).__name__}: {error}); export it again"
        ) from error
    for name, unique_id in extension["attributes"].items():
        if unique_id not in attributes:
            raise InputError(f"{path}: its Draco data lacks {name}; export it again")
        old = document["accessors"][primitive["attributes"][name]]
        values_NC = attributes[unique_id]
        if old.get("normalized"):
            values_NC = _normalised(values_NC)
        if _is_vertex(name) or values_NC.dtype.kind == "f":
            values_NC = values_NC.astype("<f4")
        primitive["attributes"][name] = _append(document, content, values_NC)
    # What Draco does not hold cannot be told apart from damage.
    primitive["attributes"] = {name: primitive["attributes"][name] for name in extension["attributes"]}
    primitive["indices"] = _append(document, content, faces_F3.reshape(-1, 1).astype("<u4"))
    primitive["mode"] = 4


def _read(document: dict[str, Any], content: bytearray, accessor: dict[str, Any]) -> np.ndarray:
    """The numbers of an accessor, NC, as they are meant: normalised integers become fractions."""
    dtype, components = np.dtype(_TYPES[accessor["componentType"]]), _COMPONENTS[accessor["type"]]
    view = document["bufferViews"][accessor["bufferView"]]
    size = components * dtype.itemsize
    stride = view.get("byteStride", size)
    start = view["byteOffset"] + accessor.get("byteOffset", 0)
    length = stride * (accessor["count"] - 1) + size
    if start + length > len(content) or accessor["count"] < 1:
        raise IndexError("an accessor reaches beyond its buffer")
    rows = np.lib.stride_tricks.as_strided(
        np.frombuffer(bytes(content[start : start + length]), np.uint8),
        (accessor["count"], size),
        (stride, 1),
    )
    values_NC = np.ascontiguousarray(rows).view(dtype)
    return _normalised(values_NC) if accessor.get("normalized") else values_NC


def _normalised(values_NC: np.ndarray) -> np.ndarray:
    """Table in section 3.6.2.2: c / max, signed ones not below -1."""
    if values_NC.dtype.kind == "f":
        return values_NC
    return np.maximum(values_NC / np.iinfo(values_NC.dtype).max, -1.0).astype("<f4")


def _append(document: dict[str, Any], content: bytearray, values_NC: np.ndarray) -> int:
    """Adds an accessor with its own view at the end of the chunk; returns its number."""
    codes = {np.dtype(name): code for code, name in _TYPES.items()}
    names = {count: name for name, count in _COMPONENTS.items()}
    values_NC = np.ascontiguousarray(values_NC)
    content += b"\0" * (-len(content) % 4)
    document["bufferViews"].append({"buffer": 0, "byteOffset": len(content), "byteLength": values_NC.nbytes})
    content += values_NC.tobytes()
    document["accessors"].append(
        {
            "bufferView": len(document["bufferViews"]) - 1,
            "componentType": codes[values_NC.dtype],
            "type": names[values_NC.shape[1]],
            "count": len(values_NC),
        }
    )
    return len(document["accessors"]) - 1
