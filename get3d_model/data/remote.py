"""Data sets in object stores, by fsspec: `s3://bucket/set`, `gs://...`, `file:///...`; the driver has to be installed.

The manifest goes away first and comes last, as on a disk: a data set that is being written has none. Files
whose hash is in the manifests of both sides are not transferred again, nor those that a stopped push has recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from get3d_model.data.manifest import MANIFEST_NAME
from get3d_model.errors import InputError
from get3d_model.files import atomic_path, remove_temporaries, sha256_file

# What a push has transferred so far, hashes by name; gone when the manifest is there.
_RECORD_NAME = ".pushed.json"
# Protocols without folders: making one there makes at most a bucket, which is for its owner to do.
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
_STORE_LIBRARIES = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "gcsfs",
    "google",
    "adlfs",
    "azure",
    "requests",
    "urllib3",
)


def push_dataset(folder: Path, url: str, on_file: Callable[[], None] = lambda: None) -> int:
    """Copies the finished data set (or part of one) in `folder` to `url`; returns how many files were transferred.

    Tars that are at `url` and not in the data set are removed. on_file: called after every file.
    Raises InputError for an unfinished data set, a file that is not as its manifest says, a scheme without driver, and
    trouble with the store.
    """
    folder = Path(folder).absolute()
    if not (folder / MANIFEST_NAME).is_file():
        raise InputError(f"{folder} has no {MANIFEST_NAME}; finish rendering or run `get3d data merge` first")
    names = _ordered(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    with open_store(url) as (store, root):
        there = _list(store, root)
        ours = _hashes(names, lambda name: (folder / name).read_bytes())
        if not ours:
            raise InputError(
                f"{folder} is not in shards; `get3d data convert --to shards` makes files for a store"
            )
        theirs = _recorded(store, root) | _hashes(there, lambda name: store.cat_file(f"{root}/{name}"))
        same = {
            name
            for name in names
            if name in ours
            and ours[name] == theirs.get(name)
            and there.get(name) == (folder / name).stat().st_size
        }
        stale = {name for name in there if name.endswith(".tar") and name not in names}
        wanted = [name for name in names if name not in same]
        if not stale and set(wanted) <= there.keys() and all(
            store.cat_file(f"{root}/{name}") == (folder / name).read_bytes() for name in wanted
        ):  # fmt: skip
            return 0
        for name in wanted:
            if name in ours and sha256_file(folder / name) != ours[name]:
                raise InputError(
                    f"{folder / name} is not the file that its manifest describes; fetch it or render it again"
                )
        done = {name: ours[name] for name in same}
        _record(store, root, done)
        if MANIFEST_NAME in there:
            store.rm_file(f"{root}/{MANIFEST_NAME}")
        for name in sorted(stale):
            store.rm_file(f"{root}/{name}")
        for name in wanted:
            _make_folder(store, str(PurePosixPath(f"{root}/{name}").parent))
            store.put_file(str(folder / name), f"{root}/{name}")
            if name in ours:
                done[name] = ours[name]
                _record(store, root, done)
            on_file()
        store.rm_file(f"{root}/{_RECORD_NAME}")
    return len(wanted)


def pull_dataset(url: str, folder: Path, on_file: Callable[[], None] = lambda: None) -> int:
    """Copies the data set (or the parts of one) at `url` to `folder`; returns how many files were transferred.

    What is in `folder` already and has the right hash stays, so a stopped copy continues; other tars are removed.
    Raises InputError when there is no data set at `url`, when a file does not arrive as its manifest says, for a
    scheme without driver, and trouble with the store.
    """
    folder = Path(folder).absolute()
    with open_store(url) as (store, root):
        names = _ordered(_list(store, root))
        hashes = _hashes(names, lambda name: store.cat_file(f"{root}/{name}"))
        if not hashes:
            raise InputError(f"{url} holds no finished data set: no {MANIFEST_NAME} there lists a file")
        wanted = [
            name
            for name in names
            if name not in hashes
            or not (folder / name).is_file()
            or sha256_file(folder / name) != hashes[name]
        ]
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        remove_temporaries(folder)
        for path in folder.rglob("*.tar"):
            if path.relative_to(folder).as_posix() not in names:
                path.unlink()
        for name in wanted:
            with atomic_path(folder / name) as temporary:
                store.get_file(f"{root}/{name}", str(temporary))
                if name in hashes and sha256_file(temporary) != hashes[name]:
                    raise InputError(
                        f"{url}/{name} is not the file that its manifest describes; remove it there and push it again"
                    )
            on_file()
    return len(wanted)


@contextmanager
def open_store(url: str) -> Iterator[tuple[Any, str]]:
    """(file system, path in it) of a URL; its errors become InputError."""
    import fsspec

    if "://" not in url:
        raise InputError(f"{url!r} is no URL; give one such as s3://bucket/folder or file:///folder")
    try:
        store, root = fsspec.core.url_to_fs(url)
        yield store, root.rstrip("/")
    except (ImportError, ValueError) as error:
        raise InputError(f"{url} cannot be opened ({error}); install the driver of its scheme") from error
    except Exception as error:
        if isinstance(error, InputError) or not is_store_error(error):
            raise
        raise InputError(f"{url}: {error}; check the address, the credentials and the space") from error


def is_store_error(error: Exception) -> bool:
    """Whether a store or the way to it is to blame: drivers pass some errors of their libraries on as they are."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _STORE_LIBRARIES


def _list(store: Any, root: str) -> dict[str, int]:
    """The bytes of every file by its name."""
    if not store.exists(root):
        return {}
    store.invalidate_cache()
    found = store.find(root, detail=True).items()
    sizes = {path.removeprefix(root).lstrip("/"): int(info.get("size") or 0) for path, info in found}
    for name in sizes:
        # A key may be anything, and it becomes the name of a file here.
        if ".." in PurePosixPath(name).parts:
            raise InputError(f"the store holds {name!r}, which is no file of a data set; remove it")
    return {name: size for name, size in sizes.items() if PurePosixPath(name).name != _RECORD_NAME}


def _recorded(store: Any, root: str) -> dict[str, str]:
    """What a stopped push had transferred."""
    try:
        return dict(json.loads(store.cat_file(f"{root}/{_RECORD_NAME}")))
    except (FileNotFoundError, ValueError):
        return {}


def _make_folder(store: Any, folder: str) -> None:
    protocols = {store.protocol} if isinstance(store.protocol, str) else set(store.protocol)
    if not protocols & _WITHOUT_FOLDERS:
        store.makedirs(folder, exist_ok=True)


def _record(store: Any, root: str, done: Mapping[str, str]) -> None:
    _make_folder(store, root)
    store.pipe_file(f"{root}/{_RECORD_NAME}", json.dumps(done, sort_keys=True).encode())


def _ordered(names: Iterable[str]) -> list[str]:
    """Manifests last, and that of the whole after those of its parts."""
    return sorted(names, key=lambda name: (PurePosixPath(name).name == MANIFEST_NAME, -name.count("/"), name))


def _hashes(names: Iterable[str], read: Callable[[str], bytes]) -> dict[str, str]:
    """The sha256 of every file that one of the manifests among `names` lists."""
    hashes: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.name != MANIFEST_NAME:
            continue
        try:
            manifest = json.loads(read(name))
            entries = [*manifest["shards"], *([manifest["index"]] if manifest["index"] else [])]
            hashes |= {str(path.parent / entry["file"]): entry["sha256"] for entry in entries}
        except (ValueError, KeyError, TypeError):
            continue  # a damaged manifest vouches for nothing
    return hashes
