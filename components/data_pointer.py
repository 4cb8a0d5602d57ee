"""Data sets by pointer: (repository, revision, path) in place of a folder, so that steps pass a name and not terabytes.

`dvc://REPO@REVISION:PATH` names what DVC tracks at PATH. `get3d data pointer` resolves one into a small .json file
that pins the commit and the content's hash. Whoever needs the files fetches them once per machine, from the DVC
remote and straight into a cache that every process there shares; nobody else sees them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.dvc_support import one_line, without_password
from get3d_model.errors import InputError
from get3d_model.files import atomic_path, clear_disk_errors, remove_temporaries

SCHEME = "dvc://"
KEY = "dvc_pointer"
CACHE_VARIABLE = "GET3D_DATA_CACHE"
_PATTERN = re.compile(r"dvc://(?P<repo>.+)@(?P<revision>[^@:]+):(?P<path>[^@:]+)")
_CHUNK = 1 << 20
_TRANSFERS = 8


@dataclass(frozen=True)
class DataPointer:
    """What DVC tracks at `path` of `repo` (URL or folder) at `revision` (anything git resolves).

    md5: DVC's hash of the content (`.dir` at its end for a folder), empty while nobody has looked it up; where it
    is set, other content is refused. size: bytes. files: how many. Both 0 while md5 is empty.
    """

    repo: str
    revision: str
    path: str
    md5: str = ""
    size: int = 0
    files: int = 0

    def __str__(self) -> str:
        return f"{SCHEME}{without_password(self.repo)}@{self.revision}:{self.path}"

    def to_json(self) -> dict[str, Any]:
        return {KEY: {**vars(self)}}


@dataclass(frozen=True)
class PointedFile:
    """One file behind a pointer. name: relative to it, empty where the pointer is one file. md5: of its content."""

    name: str
    md5: str


def parse_location(text: str) -> Path | DataPointer:
    """A folder, or a pointer: `dvc://REPO@REVISION:PATH`, or a .json file that holds one. Raises InputError."""
    if text.startswith(SCHEME):
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise InputError(f"{text!r} is no data pointer; write dvc://REPO@REVISION:PATH")
        return DataPointer(match["repo"], match["revision"], match["path"].strip("/"))
    path = Path(text)
    if path.suffix != ".json" or not path.is_file():
        return path
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return path
    if not isinstance(content, dict) or KEY not in content:
        return path
    try:
        return DataPointer(**content[KEY])
    except TypeError:
        raise InputError(f"{path} is a damaged pointer; write it anew with `get3d data pointer`") from None


def local_folder(location: Path | DataPointer, cache: Path | None = None) -> Path:
    """The folder itself, or that of the pointer's files, fetched now where this machine does not have them yet.

    cache: GET3D_DATA_CACHE, or ~/.cache/get3d/data, unless given. Processes that want the same data at the same time
    fetch them once. A stopped fetch continues. Raises InputError.
    """
    if isinstance(location, Path):
        return location
    if cache is None:
        cache = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "get3d" / "data")
    if location.md5 and (found := cache / location.md5.removesuffix(".dir")).exists():
        return found
    with (
        clear_disk_errors(cache, f"make space or name another folder with {CACHE_VARIABLE}"),
        open_pointer(location) as (resolved, files, filesystem),
    ):
        target = cache / resolved.md5.removesuffix(".dir")
        partial = target.with_name(f"{target.name}.part")
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if not target.exists():
                for left in (partial, *partial.rglob("*")):
                    if left.is_dir():
                        remove_temporaries(left)
                print(f"fetching {location} ({resolved.size / 1e6:.1f} MB) to {target}", flush=True)
                with ThreadPoolExecutor(_TRANSFERS) as pool:
                    waiting = [pool.submit(_fetch, filesystem, resolved, file, partial) for file in files]
                    try:
                        for done in waiting:
                            done.result()
                    except BaseException:
                        pool.shutdown(cancel_futures=True)
                        raise
                os.replace(partial, target)
    return target


@contextmanager
def open_pointer(pointer: DataPointer) -> Iterator[tuple[DataPointer, list[PointedFile], Any]]:
    """(the pointer with commit, hash and size; its files; DVC's file system at that commit). Raises InputError."""
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        filesystem = open_dvc(pointer.repo, pointer.revision)
        info = filesystem.info(f"/{pointer.path}")
        found = filesystem.find(f"/{pointer.path}", detail=True)
        commit = filesystem.repo.get_rev()
    except FileNotFoundError:
        raise InputError(f"{pointer}: there is no such path at that revision") from None
    except (DvcException, SCMError, OSError) as error:
        raise InputError(f"{pointer} cannot be opened: {one_line(error)}") from error
    md5 = _hash_of(info)
    if not md5:
        raise InputError(f"{pointer} is not tracked by DVC; name an output, or what `dvc add` tracks")
    if pointer.md5 and pointer.md5 != md5:
        raise InputError(
            f"{pointer} has content {md5[:12]} now and not {pointer.md5[:12]}; write the pointer anew"
        )
    files = [
        PointedFile(name.removeprefix(f"/{pointer.path}").lstrip("/"), _hash_of(entry))
        for name, entry in sorted(found.items())
    ]
    for file in files:
        if ".." in Path(file.name).parts or not file.md5:
            raise InputError(f"{pointer}: {file.name!r} is no file that DVC tracks")
    # DVC knows the size of a folder and not those of the files in it.
    size = info.get("size") or _size_of(info) or 0
    with filesystem.repo:
        yield DataPointer(pointer.repo, commit, pointer.path, md5, size, len(files)), files, filesystem


def open_dvc(repo: str, revision: str) -> Any:
    """DVC's file system of a repository, which is a URL or a folder, at a revision."""
    # Loading DVC takes a second, and most callers have a folder.
    from dvc.api import DVCFileSystem

    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    # From the commit, also where the repository is a folder with a work tree.
    return DVCFileSystem(url=str(Path(repo).absolute()) if Path(repo).exists() else repo, rev=revision)


def _hash_of(info: dict[str, Any]) -> str:
    return info.get("md5") or info.get("dvc_info", {}).get("md5") or ""


def _size_of(info: dict[str, Any]) -> int | None:
    entry = info.get("dvc_info", {}).get("entry")
    return entry.meta.size if entry is not None and entry.meta is not None else None


def _fetch(filesystem: Any, pointer: DataPointer, file: PointedFile, folder: Path) -> None:
    """Brings one file to `folder`, unless it is there. Raises InputError."""
    target = folder / file.name if file.name else folder
    if target.is_file() and _md5(target) == file.md5:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        try:
            filesystem.get_file("/".join(filter(None, ("", pointer.path, file.name))), str(temporary))
        except FileNotFoundError:
            raise InputError(
                f"{pointer}: {file.name or pointer.path} is not in the repository's DVC remote; run `dvc push` where"
                " the data were made"
            ) from None
        except Exception as error:  # the drivers of remotes raise errors of their own libraries
            if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                raise
            raise InputError(f"{pointer}: {file.name} cannot be fetched: {one_line(error)}") from error
        if _md5(temporary) != file.md5:
            raise InputError(
                f"{pointer}: {file.name} arrived with other content than DVC recorded; push it again"
            )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process of this machine at a time; the lock goes with its process, however that ends."""
    import fcntl

    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
