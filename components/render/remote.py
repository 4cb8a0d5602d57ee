"""Meshes from an object store and data sets to one, by fsspec: `get3d render s3://bucket/meshes s3://bucket/set`.

Work is done in a local folder that the address gives its name to, below GET3D_DATA_CACHE or ~/.cache/get3d/data: a job
that is stopped and started again on the same machine continues there. What is in it already is not transferred again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from components.data_pointer import CACHE_VARIABLE
from components.render.inputs import find_meshes
from get3d_model.data.manifest import MANIFEST_NAME, Manifest
from get3d_model.data.parts import Shard, merge_parts
from get3d_model.data.remote import open_store
from get3d_model.errors import InputError
from get3d_model.files import atomic_path, clear_disk_errors, write_json_atomic

_LIST_NAME = ".fetched.json"
# What of a store's description changes with the content, whichever of these the store has.
_MARKS = ("size", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "generation")


def is_url(location: object) -> bool:
    """Whether this is the address of a store (and no `dvc://` pointer, which has been dealt with before)."""
    return isinstance(location, str) and "://" in location


def local_copy(url: str, kind: str) -> Path:
    """The folder on this machine where the things at `url` are worked on. kind: "meshes" or "rendered"."""
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "get3d" / "data")
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    return root / f"{kind}-{digest}"


def fetch_meshes(url: str, shard: Shard) -> Path:
    """Copies the mesh folder (or .zip) at `url` to this machine; returns where it is.

    Of a folder, a job of several fetches its own meshes and all files that are no meshes (textures, materials, split
    files); the other meshes are there as empty files, because the list of all of them decides names and splits.
    Raises InputError when there is nothing, for names that lead outside, and for trouble with store or disk.
    """
    advice = f"make space or name another folder with {CACHE_VARIABLE}"
    base = local_copy(url, "meshes")
    with clear_disk_errors(base, advice), open_store(url) as (store, root):
        if not store.exists(root):
            raise InputError(f"{url} does not exist; check the address")
        # The folder's own name may be a ShapeNet synset.
        folder, known = base / (PurePosixPath(root).name or "meshes"), _known(base)
        if store.isfile(root):
            if not root.lower().endswith(".zip"):
                raise InputError(f"{url} is a file; give a folder of meshes or a .zip of one")
            _fetch(store, root, store.info(root), folder, folder.name, known)
        else:
            found = _list(store, root, url)
            _lay_out(folder, found)
            others = {mesh.relative for mesh in find_meshes(folder) if not shard.owns(mesh.shape_id)}
            for name, (path, info) in found.items():
                if name not in others:
                    _fetch(store, path, info, folder / name, name, known)
        write_json_atomic(base / _LIST_NAME, known)
    return folder


def _list(store: Any, root: str, url: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """(path in the store, description) of every file by its name below `root`."""
    store.invalidate_cache()
    found = {}
    for path, info in sorted(store.find(root, detail=True).items()):
        name = path.removeprefix(root).lstrip("/")
        if ".." in PurePosixPath(name).parts:
            raise InputError(f"{url} holds {name!r}, which would lie outside of the folder; remove it")
        if name:
            found[name] = (path, info)
    return found


def _lay_out(folder: Path, names: Iterable[str]) -> None:
    """Every file is there, empty where it is new, and no other."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            path.unlink()
    for name in names:
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()


def _known(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _LIST_NAME).read_text())
    except (OSError, ValueError):
        return {}


def _fetch(
    store: Any, path: str, info: dict[str, Any], target: Path, name: str, known: dict[str, Any]
) -> None:
    marks = {mark: str(info[mark]) for mark in _MARKS if info.get(mark) is not None}
    if known.get(name) == marks and target.is_file() and str(target.stat().st_size) == marks.get("size"):
        return
    with atomic_path(target) as temporary:
        store.get_file(path, str(temporary))
    known[name] = marks


def merge_at(url: str) -> Manifest:
    """As `merge_parts`, for parts that were pushed to `url`; reads and writes no tar there.

    Raises InputError as `merge_parts`, and for trouble with the store.
    """
    with tempfile.TemporaryDirectory(prefix="get3d-merge-") as name, open_store(url) as (store, root):
        folder = Path(name)
        found = _list(store, root, url)
        for file, (path, info) in found.items():
            target = folder / file
            if PurePosixPath(file).parts[0].startswith("part-"):
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.suffix == ".tar":
                    # Only its size is looked at: a file full of holes has it, too.
                    with open(target, "wb") as handle:
                        handle.truncate(int(info["size"]))
                else:
                    store.get_file(path, str(target))
        if MANIFEST_NAME in found:
            store.rm_file(f"{root}/{MANIFEST_NAME}")
        manifest = merge_parts(folder)
        written = [path for path in folder.rglob("*") if path.is_file() and not path.match("part-*/**")]
        names = sorted(path.relative_to(folder).as_posix() for path in written)
        for file in sorted(names, key=lambda file: file == MANIFEST_NAME):
            if not file.startswith("part-"):
                store.makedirs(str(PurePosixPath(f"{root}/{file}").parent), exist_ok=True)
                store.put_file(str(folder / file), f"{root}/{file}")
    return manifest
