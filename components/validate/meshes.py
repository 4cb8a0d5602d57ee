"""Which meshes a run is about: where they are, and what says that they have changed."""

from __future__ import annotations

import os
from pathlib import Path

from get3d_model.errors import InputError
from get3d_model.files import sha256_json

# What a store tells about a file that changes with its content, whichever of these it has.
_MARKS = ("size", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "generation")


def find_source(given: str) -> tuple[str, str]:
    """(where the meshes are, their fingerprint) of a folder, a .zip, `dvc://REPO@REVISION:PATH` or `s3://...`.

    A pointer comes back with its commit, so that every step sees the same. No mesh is read. Raises InputError.
    """
    # Here and not above, because each takes a second.
    from components.data_pointer import SCHEME, open_pointer, parse_location

    if given.startswith(SCHEME):
        with open_pointer(parse_location(given)) as (pinned, _, _):
            return f"{SCHEME}{pinned.repo}@{pinned.revision}:{pinned.path}", pinned.md5[:16]
    if "://" in given:
        return given, _store_fingerprint(given)
    from components.render.archive import is_archive
    from components.render.inputs import find_meshes

    path = Path(given).absolute()
    if not is_archive(path):
        find_meshes(path)
    return str(path), mesh_fingerprint(path)


def mesh_fingerprint(meshes: Path) -> str:
    """Names, sizes and times of the files: what changed since the last run, found without reading a mesh."""
    meshes = Path(meshes)
    if meshes.is_file():
        files = [meshes]
    else:
        files = sorted(
            Path(root) / name
            for root, _, names in os.walk(meshes, followlinks=True)
            if not any(part.startswith(".") for part in Path(root).relative_to(meshes).parts)
            for name in names
            if not name.startswith(".")
        )
    facts = [(str(f.relative_to(meshes)), (stat := f.stat()).st_size, stat.st_mtime_ns) for f in files]
    return sha256_json(facts)[:16]


def _store_fingerprint(url: str) -> str:
    from get3d_model.data.remote import open_store

    with open_store(url) as (store, root):
        store.invalidate_cache()
        found = store.find(root, detail=True)
    if not found:
        raise InputError(f"{url} does not exist or is empty; check the address")
    facts = [
        [name, *(str(info[mark]) for mark in _MARKS if mark in info)] for name, info in sorted(found.items())
    ]
    return sha256_json(facts)[:16]


def local_meshes(source: str) -> Path:
    """The meshes on this machine's disks, fetched where they are behind a pointer or in a store. Raises InputError."""
    from components.data_pointer import local_folder, parse_location

    if "://" not in source or source.startswith("dvc://"):
        return local_folder(parse_location(source))
    from components.render.remote import fetch_meshes
    from get3d_model.data.parts import Shard

    return fetch_meshes(source, Shard())
