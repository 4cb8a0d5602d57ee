"""What is to be rendered: the meshes of a folder, their hashes, their splits and their cameras."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from get3d_model.camera_settings import PUBLISHED_ORBIT, OrbitSettings
from get3d_model.data.splits import hash_split, read_split_files
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, sha256_json

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class MeshFile:
    """A mesh to be rendered. relative: its path below the mesh folder, with forward slashes."""

    shape_id: str
    path: Path
    relative: str


@dataclass(frozen=True)
class ViewAngles:
    """A camera direction in degrees; elevation is measured up from the horizon."""

    rotation_deg: float
    elevation_deg: float


def find_meshes(folder: Path) -> list[MeshFile]:
    """All mesh files below `folder`, sorted by shape id; hidden files and folders are skipped.

    The shape id is the relative path without its suffix, '/' replaced by '-'; so is '.', because WebDataset
    ends a sample's key at the first dot. Raises InputError for a missing folder, one without meshes, and
    two files with the same id.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"the mesh folder {folder} does not exist; check the path or run `get3d synth` first"
        )
    found: dict[str, MeshFile] = {}
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root) / name
            if name.startswith(".") or path.suffix.lower() not in MESH_SUFFIXES:
                continue
            relative = path.relative_to(folder).as_posix()
            shape_id = _shape_id(relative)
            if shape_id in found:
                raise InputError(
                    f"{found[shape_id].path} and {path} would both be shape {shape_id!r};"
                    " rename or remove one of them"
                )
            found[shape_id] = MeshFile(shape_id, path, relative)
    if not found:
        raise InputError(f"{folder} holds no {', '.join(MESH_SUFFIXES)} file; check the path")
    return [found[shape_id] for shape_id in sorted(found)]


def _shape_id(relative: str) -> str:
    stem = relative.rpartition(".")[0]
    return "".join("-" if letter in "/." or ord(letter) < 32 else letter for letter in stem)


def hash_meshes(meshes: Iterable[MeshFile]) -> dict[str, str]:
    """A sha256 by shape id: of the mesh file, and of the files it names if there are any.

    Empty for a file that cannot be read: the loader says why, and it costs only itself.
    """
    meshes = list(meshes)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip((mesh.shape_id for mesh in meshes), pool.map(_hash_mesh, meshes), strict=True))


def _hash_mesh(mesh: MeshFile) -> str:
    try:
        digest = sha256_file(mesh.path)
        referenced = {name: path for name, path in _references(mesh.path).items() if path.is_file()}
        if not referenced:
            return digest
        return sha256_json([digest, {name: sha256_file(path) for name, path in referenced.items()}])
    except OSError:
        return ""


def _references(path: Path) -> dict[str, Path]:
    """Files that a mesh file names. A damaged file names none: the loader has the words for what is wrong."""
    suffix = path.suffix.lower()
    names: list[str] = []
    if suffix == ".gltf":
        try:
            document = json.loads(path.read_bytes())
            entries = [*document.get("buffers", []), *document.get("images", [])]
            names = [entry["uri"] for entry in entries if not entry.get("uri", "data:").startswith("data:")]
        except (ValueError, AttributeError, TypeError, KeyError):
            return {}
    elif suffix == ".obj":
        for name in _words_after(path, ("mtllib",)):
            names.append(name)
            library = path.parent / name
            if library.is_file():
                names += _words_after(library, ("map_kd",))
    elif suffix == ".ply":
        header = path.read_bytes()[:4096].partition(b"end_header")[0].decode("latin-1").splitlines()
        names = [line.split(None, 2)[2] for line in header if line.lower().startswith("comment texturefile ")]
    return {name: path.parent / name.replace("\\", "/") for name in names}


def _words_after(path: Path, keys: tuple[str, ...]) -> list[str]:
    result = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, rest = line.strip().partition(" ")
            if key.lower() in keys and rest.strip():
                result.append(rest.strip())
    return result


def view_angles(
    shape_id: str, views: int, seed: int, cameras: OrbitSettings = PUBLISHED_ORBIT
) -> list[ViewAngles]:
    """Random directions of a shape's cameras, distributed as `cameras` says.

    They come from a hash of (seed, shape, view) and nothing else, so that neither other shapes, the number of
    workers and views, nor a version of a random number library has a say.
    """
    low, high = cameras.rotation_deg
    result = []
    for view in range(views):
        digest = hashlib.sha256(f"camera/{seed}/{shape_id}/{view}".encode()).digest()
        rotation, elevation = (int.from_bytes(digest[i : i + 6], "big") / 2**48 for i in (0, 6))
        # Rounded down to a micro-degree: short numbers in the files, and never 360.
        result.append(
            ViewAngles(
                low + int((high - low) * 1e6 * rotation) / 1e6,
                math.floor(cameras.elevation_at(elevation) * 1e6) / 1e6,
            )
        )
    return result


def find_split_files(meshes: Path, splits: Path | None) -> dict[str, Path]:
    """The split files (`train.txt`, `val.txt`, `test.txt`): in `splits`, or else in or above the mesh folder.

    Empty when there are none. Raises InputError when `splits` is given and holds no train.txt, or when val
    or test stands without train.
    """
    for folder in (Path(splits),) if splits is not None else (Path(meshes), Path(meshes).absolute().parent):
        files = {name: folder / f"{name}.txt" for name in SPLIT_NAMES if (folder / f"{name}.txt").is_file()}
        if "train" in files:
            return files
        if splits is not None or files:
            raise InputError(
                f"{folder / 'train.txt'} does not exist; put the training shape ids there, one per line"
            )
    return {}


@dataclass(frozen=True)
class Splits:
    """The split of the rendered shapes. notes: oddities, one line each, for the log."""

    lists: dict[str, list[str]]
    notes: list[str]


def split_shapes(
    rendered: Iterable[MeshFile],
    all_meshes: Iterable[MeshFile],
    files: Mapping[str, Path],
    val_fraction: float,
    seed: int,
) -> Splits:
    """Splits the rendered shapes by the files, or by hash when there are none.

    An id in a file is matched with a mesh's shape id, file name without suffix, path without suffix, or a
    folder on its path (ShapeNet's `<id>/models/model_normalized.obj`). Raises InputError when a mesh is
    matched by two splits.
    """
    rendered = list(rendered)
    if not files:
        return Splits(hash_split((mesh.shape_id for mesh in rendered), val_fraction, seed), [])
    owner = {shape_id: name for name, ids in read_split_files(files).items() for shape_id in ids}
    lists: dict[str, list[str]] = {name: [] for name in files}
    unlisted, matched = [], set()
    for mesh in all_meshes:
        matched |= _names(mesh) & owner.keys()
    for mesh in rendered:
        names = sorted(_names(mesh) & owner.keys())
        found = {owner[name] for name in names}
        if len(found) > 1:
            raise InputError(
                f"{mesh.path} is listed as {' and '.join(repr(name) for name in names)} in different splits;"
                " keep it in one of them"
            )
        if not found:
            unlisted.append(mesh.shape_id)
        lists[found.pop() if found else "train"].append(mesh.shape_id)
    notes = []
    without_mesh = sorted(owner.keys() - matched)
    if without_mesh:
        notes.append(f"{len(without_mesh)} listed ids have no mesh, such as {without_mesh[0]!r}")
    if unlisted:
        notes.append(f"{len(unlisted)} shapes are in no split file and go to train, such as {unlisted[0]!r}")
    return Splits({name: sorted(ids) for name, ids in lists.items()}, notes)


def _names(mesh: MeshFile) -> set[str]:
    path = Path(mesh.relative)
    return {mesh.shape_id, path.stem, mesh.relative.rpartition(".")[0], *path.parts[:-1]}
