"""The OBJ and PLY formats: checks before a file is read, materials, and writing.

Reading the geometry itself is `mesh_io`'s work; here stands what makes sure that nothing in the file would be
ignored silently. Sources: Wavefront OBJ and MTL specification; G. Turk, "The PLY Polygon File Format".

Shape legend: V vertices, F faces
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from get3d_model.errors import InputError
from get3d_model.gltf import inside_folder
from get3d_model.texture_atlas import sample_bilinear
from get3d_model.types import ColoredMesh, TexturedMesh


@dataclass(frozen=True)
class ObjMaterial:
    """colour_3: `Kd`, taken as sRGB in [0, 1]. image: the file of `map_Kd`, which replaces the colour."""

    colour_3: tuple[float, float, float]
    image: Path | None


def _lines(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    return [line.split() for line in text.splitlines()]


def _read_mtl(path: Path) -> dict[str, ObjMaterial]:
    materials: dict[str, ObjMaterial] = {}
    name = None
    for words in _lines(path):
        key = words[0].lower() if words else ""
        if key == "newmtl":
            name = " ".join(words[1:])
            materials[name] = ObjMaterial((1.0, 1.0, 1.0), None)
        elif key == "kd" and name is not None:
            try:
                red, green, blue = (float(word) for word in words[1:4])
            except ValueError as error:
                raise InputError(f"{path}: material '{name}' has a Kd that is not three numbers") from error
            materials[name] = ObjMaterial((red, green, blue), materials[name].image)
        elif key == "map_kd" and name is not None:
            reference = " ".join(words[1:])
            if reference.startswith("-"):
                raise InputError(
                    f"{path}: map_Kd of '{name}' has options, which are not supported; remove them"
                )
            materials[name] = ObjMaterial(
                materials[name].colour_3, inside_folder(path.parent, reference, path)
            )
    return materials


def check_obj(path: Path) -> dict[str, ObjMaterial]:
    """The materials of an OBJ file. Raises InputError for broken references, indices and lines."""
    materials: dict[str, ObjMaterial] = {}
    counts = {"v": 0, "vt": 0}
    corners: list[tuple[list[str], int]] = []
    used: dict[str, None] = {}
    has_library = False
    for number, words in enumerate(_lines(path), start=1):
        key = words[0] if words else ""
        if key in counts:
            counts[key] += 1
        elif key == "f":
            corners.append((words[1:], number))
        elif key == "mtllib":
            has_library = True
            materials |= _read_mtl(inside_folder(path.parent, " ".join(words[1:]), path))
        elif key == "usemtl":
            used[" ".join(words[1:])] = None
    for words, number in corners:
        if len(words) < 3:
            raise InputError(
                f"{path}: line {number} is a face with {len(words)} corners; the file may be truncated"
            )
        for word in words:
            _check_corner(path, number, word, counts)
    missing = [name for name in used if name not in materials]
    if has_library and missing:
        raise InputError(f"{path}: uses the material '{missing[0]}', which its .mtl file does not define")
    return materials


def _check_corner(path: Path, number: int, word: str, counts: dict[str, int]) -> None:
    fields = word.split("/")
    try:
        vertex = int(fields[0])
        uv = int(fields[1]) if len(fields) > 1 and fields[1] else None
    except ValueError as error:
        raise InputError(
            f"{path}: line {number} has the face corner '{word}', which is not a number"
        ) from error
    if vertex < 0 or (uv is not None and uv < 0):
        raise InputError(f"{path}: line {number} uses relative (negative) indices; export with absolute ones")
    if not 1 <= vertex <= counts["v"]:
        raise InputError(
            f"{path}: line {number} has face index {vertex}, but there are {counts['v']} vertices"
        )
    if uv is not None and not 1 <= uv <= counts["vt"]:
        raise InputError(f"{path}: line {number} has uv index {uv}, but there are {counts['vt']} uvs")


def check_ply(path: Path) -> None:
    """Checks a PLY's header, its length when it is ASCII, and its texture. Raises InputError."""
    content = path.read_bytes()
    head, separator, body = content.partition(b"end_header")
    if not content.startswith(b"ply") or not separator:
        raise InputError(f"{path}: has no complete PLY header; export it again")
    rows = 0
    ascii_rows = b"format ascii" in head
    for line in head.decode("utf-8", errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3 and words[2].isdigit():
            rows += int(words[2])
        if "texturefile" in line.lower():
            reference = line[line.lower().index("texturefile") + len("texturefile") :].strip()
            inside_folder(path.parent, reference, path)
    if ascii_rows and len(body.split(b"\n", 1)[-1].strip().splitlines()) < rows:
        raise InputError(f"{path}: is truncated (fewer lines than its header's {rows}); export it again")


def obj_files(mesh: TexturedMesh, stem: str) -> dict[str, str]:
    """The texts of `stem`.obj and `stem`.mtl; they refer to `stem`.png. Numbers read back exactly."""
    corners_F3 = mesh.faces_F3 + 1
    lines = [f"# extras {json.dumps(mesh.extras, sort_keys=True)}", f"mtllib {stem}.mtl"]
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.vertices_V3.tolist()]
    lines += [f"vt {u:.9g} {v:.9g}" for u, v in mesh.uvs_V2.tolist()]
    lines += ["usemtl surface"]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in corners_F3.tolist()]
    material = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {stem}.png"]
    return {f"{stem}.obj": "\n".join(lines) + "\n", f"{stem}.mtl": "\n".join(material) + "\n"}


def ply_bytes(mesh: TexturedMesh) -> bytes:
    """A binary PLY whose vertex colours are looked up in the texture."""
    colors_V3 = np.round(sample_bilinear(mesh.texture_HW3, mesh.uvs_V2)).astype(np.uint8)
    return colored_ply_bytes(ColoredMesh(mesh.vertices_V3, mesh.faces_F3, colors_V3, mesh.extras))


def colored_ply_bytes(mesh: ColoredMesh) -> bytes:
    """A binary PLY with vertex colours, sRGB."""
    vertices = np.empty(len(mesh.vertices_V3), dtype=[("position", "<f4", 3), ("colour", "u1", 3)])
    vertices["position"], vertices["colour"] = mesh.vertices_V3, mesh.colors_V3
    faces = np.empty(len(mesh.faces_F3), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces_F3
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment extras {json.dumps(mesh.extras, sort_keys=True)}", f"element vertex {len(vertices)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    return ("\n".join(header) + "\n").encode() + vertices.tobytes() + faces.tobytes()
