"""What is to be rendered: the meshes of a folder, their hashes, their splits and their cameras."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from components.render.shapenet import shapenet_names
from get3d_model.camera_settings import PUBLISHED_ORBIT, OrbitSettings
from get3d_model.data.splits import SPLIT_NAMES, hash_split, read_split_files
from get3d_model.errors import InputError

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply")


@dataclass(frozen=True)
class MeshFile:
    """A mesh to be rendered. relative: its path below the mesh folder, with forward slashes, as text.

    label: its class where the folders are ShapeNet's, which name a synset.
    """

    shape_id: str
    path: Path
    relative: str
    label: str | None = None


@dataclass(frozen=True)
class ViewAngles:
    """A camera direction in degrees; elevation is measured up from the horizon."""

    rotation_deg: float
    elevation_deg: float


def find_meshes(folder: Path) -> list[MeshFile]:
    """All mesh files below `folder`, sorted by shape id; hidden files and folders are skipped.

    The shape id is the relative path without its suffix, '/' replaced by '-'; so is '.', because WebDataset
    ends a sample's key at the first dot. In ShapeNet's layout it is the model id. Links are followed, but not to a
    folder that they lie in. Raises InputError for a folder that is missing or cannot be read, one without meshes, and
    two files with the same id.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give the folder that holds the meshes, or a .zip of one")
    if not folder.is_dir():
        raise InputError(
            f"the mesh folder {folder} does not exist; check the path or run `get3d synth` first"
        )

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); give access or remove it")

    candidates: list[MeshFile] = []
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _leads_back(Path(root, name))
        )
        for name in sorted(files):
            path = Path(root) / name
            if not name.startswith(".") and path.suffix.lower() in MESH_SUFFIXES:
                candidates.append(_named(folder, path))
    # ShapeNet has some models in two synsets.
    often = Counter(mesh.shape_id for mesh in candidates)
    found: dict[str, MeshFile] = {}
    for mesh in candidates:
        if often[mesh.shape_id] > 1 and mesh.label is not None:
            mesh = replace(mesh, shape_id=f"{mesh.label}-{mesh.shape_id}")
        if mesh.shape_id in found:
            raise InputError(
                f"{found[mesh.shape_id].path} and {mesh.path} would both be shape {mesh.shape_id!r};"
                " rename or remove one of them"
            )
        found[mesh.shape_id] = mesh
    if not found:
        raise InputError(f"{folder} holds no {', '.join(MESH_SUFFIXES)} file; check the path")
    return [found[shape_id] for shape_id in sorted(found)]


def _leads_back(folder: Path) -> bool:
    """Whether this is a link to a folder that it lies in, in which every mesh would be found again and again."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _named(folder: Path, path: Path) -> MeshFile:
    # Bytes that are no UTF-8 (names out of old archives) could not be written into lists and tars.
    relative = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
    names = shapenet_names(folder, relative)
    if names is None:
        return MeshFile(_shape_id(relative), path, relative)
    return MeshFile(_shape_id(f"{names[0]}."), path, relative, names[1])


def _shape_id(relative: str) -> str:
    stem = relative.rpartition(".")[0]
    return "".join("-" if letter in "/." or ord(letter) < 32 else letter for letter in stem)


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
    groups: Mapping[str, str] | None = None,
) -> Splits:
    """Splits the rendered shapes by the files, or by hash when there are none; `groups` stay together there.

    An id in a file is matched with a mesh's shape id, file name without suffix, path without suffix, or a
    folder on its path (ShapeNet's `<id>/models/model_normalized.obj`). Raises InputError when a mesh is
    matched by two splits.
    """
    rendered = list(rendered)
    if not files:
        return Splits(hash_split((mesh.shape_id for mesh in rendered), val_fraction, seed, groups), [])
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
    notes = _torn_groups(lists, groups or {})
    without_mesh = sorted(owner.keys() - matched)
    if without_mesh:
        notes.append(f"{len(without_mesh)} listed ids have no mesh, such as {without_mesh[0]!r}")
    if unlisted:
        notes.append(f"{len(unlisted)} shapes are in no split file and go to train, such as {unlisted[0]!r}")
    return Splits({name: sorted(ids) for name, ids in lists.items()}, notes)


def _torn_groups(lists: Mapping[str, list[str]], groups: Mapping[str, str]) -> list[str]:
    """A note when split files part shapes that are copies of each other: they are obeyed all the same."""
    owner: dict[str, tuple[str, str]] = {}
    torn: dict[str, str] = {}
    for split, ids in lists.items():
        for shape_id in ids:
            first_split, first = owner.setdefault(groups.get(shape_id, shape_id), (split, shape_id))
            if first_split != split:
                torn.setdefault(first, shape_id)
    if not torn:
        return []
    pair = min(torn.items())
    return [f"{len(torn)} groups of equal shapes are in two splits, such as {pair[0]!r} and {pair[1]!r}"]


def _names(mesh: MeshFile) -> set[str]:
    path = Path(mesh.relative)
    return {mesh.shape_id, path.stem, mesh.relative.rpartition(".")[0], *path.parts[:-1]}
