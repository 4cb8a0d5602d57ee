"""What is known of a mesh file before it is loaded: hashes of its content and its geometry, oddities."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from components.render.inputs import MeshFile
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, sha256_json
from get3d_model.obj_ply import inside, obj_references

_POSITION_LINES = re.compile(rb"^v[ \t].*$", re.MULTILINE)


@dataclass(frozen=True)
class MeshFacts:
    """sha256: of the mesh file, and of the files it names if there are any; empty when it cannot be read.

    geometry: equal for files with the same vertex positions, whatever their colours. notes: a line for
    everything that is missing but costs only colour.
    """

    sha256: str = ""
    geometry: str = ""
    notes: tuple[str, ...] = ()


def inspect_meshes(meshes: Iterable[MeshFile], root: Path) -> dict[str, MeshFacts]:
    """The facts by shape id. root: the mesh folder, outside of which nothing is read."""
    meshes = list(meshes)
    with ThreadPoolExecutor(max_workers=8) as pool:
        facts = pool.map(lambda mesh: _inspect(mesh.path, root), meshes)
        return dict(zip((mesh.shape_id for mesh in meshes), facts, strict=True))


def _inspect(path: Path, root: Path) -> MeshFacts:
    # Opening a pipe or a device would wait for ever.
    if not path.is_file():
        return MeshFacts()
    try:
        digest = sha256_file(path)
        files, notes = _references(path, root)
        geometry = _geometry(path) or digest
        if files:
            digest = sha256_json([digest, {name: sha256_file(file) for name, file in files.items()}])
        return MeshFacts(digest, geometry[:32], notes)
    except OSError:
        # The loader says why, and it costs only this mesh.
        return MeshFacts()


def _references(path: Path, root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The existing files that a mesh file names, and notes about the others.

    A damaged file names none: the loader has the words for what is wrong.
    """
    suffix = path.suffix.lower()
    names: list[str] = []
    if suffix == ".obj":
        try:
            references = obj_references(path, root)
        except InputError:
            return {}, ()
        return references.files, references.notes
    if suffix == ".gltf":
        try:
            document = json.loads(path.read_bytes())
            entries = [*document.get("buffers", []), *document.get("images", [])]
            names = [entry["uri"] for entry in entries if not entry.get("uri", "data:").startswith("data:")]
            names = [unquote(name) for name in names]
        except (ValueError, AttributeError, TypeError, KeyError):
            return {}, ()
    elif suffix == ".ply":
        with open(path, "rb") as handle:
            header = handle.read(4096).partition(b"end_header")[0].decode("latin-1").splitlines()
        names = [line.split(None, 2)[2] for line in header if line.lower().startswith("comment texturefile ")]
    # The loader takes files from the mesh's own folder only.
    found = {name: inside(path.parent, path.parent, name) for name in names}
    return {name: file for name, file in found.items() if file is not None and file.is_file()}, ()


def _geometry(path: Path) -> str:
    """A hash of the vertex positions as stored; empty where only the whole file can be compared."""
    suffix = path.suffix.lower()
    if suffix == ".obj":
        digest = hashlib.sha256()
        for line in _POSITION_LINES.findall(path.read_bytes()):
            digest.update(b" ".join(line.split()[1:4]) + b"\n")
        return digest.hexdigest()
    if suffix == ".glb":
        try:
            return _glb_geometry(path.read_bytes())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
            return ""
    return ""


def _glb_geometry(content: bytes) -> str:
    size = struct.unpack_from("<I", content, 12)[0]
    document = json.loads(content[20 : 20 + size])
    binary = content[28 + size :]
    digest = hashlib.sha256()
    # The same parts placed otherwise are another shape.
    placing = ("matrix", "translation", "rotation", "scale", "mesh", "children")
    nodes = [{key: node[key] for key in placing if key in node} for node in document["nodes"]]
    digest.update(json.dumps(nodes, sort_keys=True).encode())
    for mesh in document["meshes"]:
        for primitive in mesh["primitives"]:
            accessor = document["accessors"][primitive["attributes"]["POSITION"]]
            view = document["bufferViews"][accessor["bufferView"]]
            start = view.get("byteOffset", 0)
            digest.update(f"{accessor.get('byteOffset', 0)} {accessor['count']} ".encode())
            digest.update(binary[start : start + view["byteLength"]])
    return digest.hexdigest()
