"""The OBJ and PLY formats: checks before a file is read, materials, and writing.

Reading the geometry itself is `mesh_io`'s work; here stands what makes sure that nothing in the file would be
ignored silently. Sources: Wavefront OBJ and MTL specification; G. Turk, "The PLY Polygon File Format".

Shape legend: V vertices, F faces
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from get3d_model.errors import InputError
from get3d_model.gltf import inside_folder
from get3d_model.texture_atlas import sample_bilinear
from get3d_model.types import ColoredMesh, TexturedMesh


@dataclass(frozen=True)
class ObjMaterial:
    """colour_3: `Kd`, taken as sRGB in [0, 1]. image: the file of `map_Kd`, which replaces the colour.

    scale_2, offset_2: of the texture coordinates, the options -s and -o of `map_Kd`.
    """

    colour_3: tuple[float, float, float]
    image: Path | None
    scale_2: tuple[float, float] = (1.0, 1.0)
    offset_2: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class ObjReferences:
    """What an OBJ file says about other files.

    materials: of all its libraries. files: the existing files by the names they are called by, libraries and
    pictures. notes: one line for everything that is not there or not readable as it stands.
    """

    materials: dict[str, ObjMaterial]
    files: dict[str, Path]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ObjFile:
    """A checked OBJ file. content: what to hand to a reader: relative indices are absolute in it."""

    content: bytes
    references: ObjReferences


def inside(root: Path, folder: Path, reference: str) -> Path | None:
    """Where `reference` leads from `folder`; None unless it is relative and stays within `root`.

    Judged by the names alone: a link that stands in the folder itself is the owner's wish.
    """
    relative = reference.replace("\\", "/")
    if relative.startswith("/") or ":" in relative or "\0" in relative:
        return None
    path = Path(os.path.normpath(Path(os.path.abspath(folder)) / relative))
    return path if path.is_relative_to(os.path.abspath(root)) else None


def _find(root: Path, folder: Path, reference: str) -> Path | None:
    """The file meant by `reference`: where it says, or else one of its name in `folder`, whatever the case."""
    path = inside(root, folder, reference)
    if path is not None and path.is_file():
        return path
    name = reference.replace("\\", "/").rpartition("/")[2].rpartition(":")[2]
    if name in ("", ".", ".."):
        return None
    if (folder / name).is_file():
        return folder / name
    same = sorted(path for path in folder.iterdir() if path.name.lower() == name.lower() and path.is_file())
    return same[0] if same else None


def _lines(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    return [line.split() for line in text.splitlines()]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _texture_options(words: list[str]) -> tuple[str, dict[str, tuple[float, float]]]:
    """The file name of a `map_Kd` line, and its scale_2 and offset_2; other options change no colour."""
    options: dict[str, tuple[float, float]] = {}
    while words and words[0].startswith("-"):
        key, words = words[0].lower(), words[1:]
        limit = {"-s": 3, "-o": 3, "-t": 3, "-mm": 2}.get(key, 1)
        count = 0
        while count < min(limit, len(words) - 1) and (limit == 1 or _is_number(words[count])):
            count += 1
        values, words = words[:count], words[count:]
        if key in ("-s", "-o") and values:
            first = float(values[0])
            default = 1.0 if key == "-s" else 0.0
            second = float(values[1]) if len(values) > 1 else default
            options["scale_2" if key == "-s" else "offset_2"] = (first, second)
    return " ".join(words).strip("\"'"), options


def _read_mtl(path: Path, root: Path, files: dict[str, Path], notes: list[str]) -> dict[str, ObjMaterial]:
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
            materials[name] = replace(materials[name], colour_3=(red, green, blue))
        elif key == "map_kd" and name is not None:
            reference, options = _texture_options(words[1:])
            image = _find(root, path.parent, reference)
            if image is None:
                notes.append(f"the texture '{reference}' of material '{name}' is not there; its Kd is used")
            else:
                files[reference] = image
                materials[name] = replace(materials[name], image=image, **options)
    return materials


def obj_references(path: Path, root: Path | None = None) -> ObjReferences:
    """The materials of an OBJ file and the files it names, never outside `root` (None: its own folder).

    An absolute path, or one that leaves `root`, stands for a file of its name beside the OBJ. A library, a
    material or a picture that is missing costs its colour and gives a note. Raises InputError for a broken Kd.
    """
    root = path.parent if root is None else root
    files: dict[str, Path] = {}
    notes: list[str] = []
    materials: dict[str, ObjMaterial] = {}
    used: dict[str, None] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, rest = line.strip().partition(" ")
            if key == "mtllib" and rest.strip():
                reference = " ".join(rest.split())
                library = _find(root, path.parent, reference)
                if library is None:
                    notes.append(f"the material file '{reference}' is not there; its surfaces are grey")
                elif reference not in files:
                    files[reference] = library
                    materials |= _read_mtl(library, root, files, notes)
            elif key == "usemtl":
                used[" ".join(rest.split())] = None
    missing = [name for name in used if name not in materials]
    if missing and materials:
        notes.append(f"{len(missing)} materials are not defined, such as '{missing[0]}'; they are grey")
    return ObjReferences(materials, files, tuple(dict.fromkeys(notes)))


def open_obj(path: Path, root: Path | None = None) -> ObjFile:
    """Checks an OBJ file before it is read. Raises InputError for broken indices and lines."""
    counts = {"v": 0, "vt": 0}
    corners: list[tuple[list[str], int]] = []
    relative = False
    rows = _lines(path)
    for number, words in enumerate(rows, start=1):
        key = words[0] if words else ""
        if key in counts:
            counts[key] += 1
        elif key == "f":
            if any("-" in word for word in words[1:]):
                relative = True
                words[1:] = [_absolute(word, counts) for word in words[1:]]
            corners.append((words[1:], number))
    for words, number in corners:
        if len(words) < 3:
            raise InputError(
                f"{path}: line {number} is a face with {len(words)} corners; the file may be truncated"
            )
        for word in words:
            _check_corner(path, number, word, counts)
    content = "\n".join(" ".join(words) for words in rows).encode() if relative else path.read_bytes()
    return ObjFile(content, obj_references(path, root))


def _absolute(corner: str, counts: dict[str, int]) -> str:
    """A face corner whose negative indices count back from the last vertex and uv; normals are dropped."""
    result = []
    for field, key in zip(corner.split("/"), counts, strict=False):
        negative = field.startswith("-") and field[1:].isdigit()
        result.append(str(counts[key] + 1 + int(field)) if negative else field)
    return "/".join(result)


def _check_corner(path: Path, number: int, word: str, counts: dict[str, int]) -> None:
    fields = word.split("/")
    try:
        vertex = int(fields[0])
        uv = int(fields[1]) if len(fields) > 1 and fields[1] else None
    except ValueError as error:
        raise InputError(
            f"{path}: line {number} has the face corner '{word}', which is not a number"
        ) from error
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
