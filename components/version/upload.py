"""Outputs to a DVC remote, straight from where they lie: hashed in place, no copy in a cache."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data_pointer import DataPointer, open_pointer
from components.dvc_support import one_line, without_password
from get3d_model.errors import InputError
from get3d_model.files import clear_disk_errors

_LOOKUPS = 16
_TEMPORARY_SUFFIXES = (".tmp", ".old", ".part")


@dataclass(frozen=True)
class Content:
    """What DVC calls the content of an output. hash_info, meta: DVC's own, as dvc.lock records them.

    files: (name relative to the output, md5, size or None) of everything in it. listing: the bytes of a folder's own
    object.
    """

    hash_info: Any
    meta: Any
    files: tuple[tuple[str, str, int | None], ...]
    listing: bytes | None = None

    def part(self, inner: str) -> Content | None:
        """A file or folder in it, by its relative path; None where there is none."""
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta
        from dvc_data.hashfile.tree import Tree

        tree = Tree()
        for name, md5, size in self.files:
            if name == inner:
                return Content(HashInfo("md5", md5), Meta(size=size), (("", md5, size),))
            if name.startswith(f"{inner}/"):
                key = tuple(name.removeprefix(f"{inner}/").split("/"))
                tree.add(key, Meta(size=size), HashInfo("md5", md5))
        if not len(tree):
            return None
        tree.digest()
        sizes = [meta.size for _, meta, _ in tree]
        size = None if None in sizes else sum(sizes)
        files = tuple(("/".join(key), item.value, meta.size) for key, meta, item in tree)
        return Content(tree.hash_info, Meta(size=size, nfiles=len(tree), isdir=True), files)


@dataclass(frozen=True)
class _Object:
    """One object of a remote. filesystem, path: where to read it. size: in bytes."""

    md5: str
    size: int
    filesystem: Any
    path: str


class RemoteStore:
    """The DVC remote `name` of `repo` (a `dvc.repo.Repo`); the default one where name is None. Raises InputError."""

    def __init__(self, repo: Any, name: str | None, scratch: Path) -> None:
        from dvc.exceptions import DvcException

        try:
            self.name: str = name or repo.config["core"].get("remote", "")
            if not self.name:
                raise InputError(
                    "the revision has no default DVC remote; `dvc remote add -d NAME URL`, commit it, or name one"
                    " with --remote"
                )
            self.odb = repo.cloud.get_remote_odb(self.name)
            self.url = without_password(repo.config["remote"][self.name]["url"])
        except (DvcException, ImportError, KeyError) as error:
            known = ", ".join(repo.config.get("remote", {})) or "none"
            raise InputError(
                f"DVC remote {name or 'default'}: {one_line(error)}; known are: {known}"
            ) from None
        self.repo, self.scratch = repo, scratch

    def check(self) -> None:
        """Raises InputError where the remote does not answer."""
        # Not `exists`, which takes a failure of some drivers for an answer.
        with _clear_errors(self), contextlib.suppress(FileNotFoundError):
            self.odb.fs.info(self.odb.oid_to_path("0" * 32))

    def upload(self, source: Path | DataPointer, ignore: Callable[[str], bool]) -> tuple[Content, int]:
        """(content, number of objects that were not there before). Raises InputError.

        ignore: whether a path relative to the source is to be left out.
        """
        if isinstance(source, DataPointer):
            with open_pointer(source) as (pointer, files, filesystem):
                return self._upload_pointed(pointer, files, filesystem)
        before = _stamps(source, ignore)
        content = self.hash(source, ignore)
        local = self.repo.cache.local.fs
        objects = [_Object(md5, size or 0, local, str(source / name)) for name, md5, size in content.files]
        sent = self._send(objects)
        sent += self._send_listing(content)
        if _stamps(source, ignore) != before:
            # What was sent may not be what its name says.
            for item in objects:
                self.odb.delete(item.md5)
            raise InputError(
                f"{source} changed while it was recorded; wait until it is finished, then run this again"
            )
        return content, sent

    def hash(self, source: Path, ignore: Callable[[str], bool]) -> Content:
        """Hashes a file or folder as DVC does. Raises InputError."""
        from dvc_data.hashfile.build import IgnoreInCollectedDirError, build

        cache = self.repo.cache.local
        try:
            _, meta, tree = build(
                cache, str(source), cache.fs, "md5", dry_run=True, ignore=_Ignore(source, ignore)
            )
        except IgnoreInCollectedDirError:
            raise InputError(f"{source} holds a .dvcignore, which DVC does not record; remove it") from None
        except FileNotFoundError as error:
            raise InputError(f"{source}: {error.filename or error} is gone; run the step again") from None
        if not tree.hash_info.isdir:
            return Content(tree.hash_info, meta, (("", tree.hash_info.value, meta.size),))
        if not meta.nfiles:
            raise InputError(f"{source} is empty; the step that makes it did not finish")
        files = tuple(("/".join(key), hash_info.value, item.size) for key, item, hash_info in tree)
        return Content(tree.hash_info, meta, files, tree.as_bytes())

    def kept(self, hash_info: Any, meta: Any) -> Content:
        """What an earlier version put into the remote. Raises InputError where it is not there any more."""
        from dvc_data.hashfile.tree import Tree

        with _clear_errors(self):
            try:
                tree = list(Tree.load(self.odb, hash_info)) if hash_info.isdir else []
            except FileNotFoundError:
                tree = []
            wanted = {hash_info.value, *(item.value for _, _, item in tree)}
            there = set(self.odb.oids_exist(list(wanted)))
        if wanted - there:
            raise InputError(
                f"DVC remote {self.name} ({self.url}) lacks {hash_info.value} of the revision; `dvc push` there first"
            )
        return Content(hash_info, meta, tuple(("/".join(key), item.value, None) for key, _, item in tree))

    def _upload_pointed(self, pointer: DataPointer, files: list[Any], filesystem: Any) -> tuple[Content, int]:
        """From one remote to the other; nothing where they are the same."""
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta

        isdir = pointer.md5.endswith(".dir")
        theirs = filesystem.repo.cloud.get_remote_odb()
        paths = [theirs.oid_to_path(file.md5) for file in files]
        with _clear_errors(self), ThreadPoolExecutor(_LOOKUPS) as pool:
            try:
                sizes = list(pool.map(lambda path: theirs.fs.info(path)["size"], paths))
                listing = theirs.fs.cat_file(theirs.oid_to_path(pointer.md5)) if isdir else None
            except FileNotFoundError as error:
                raise InputError(
                    f"{pointer}: {error} is not in its DVC remote; `dvc push` there first"
                ) from None
        content = Content(
            HashInfo("md5", pointer.md5),
            Meta(size=sum(sizes), nfiles=len(files) if isdir else None, isdir=isdir),
            tuple((file.name, file.md5, size) for file, size in zip(files, sizes, strict=True)),
            listing,
        )
        objects = [
            _Object(file.md5, size, theirs.fs, path)
            for file, size, path in zip(files, sizes, paths, strict=True)
        ]
        return content, self._send(objects) + self._send_listing(content)

    def _send_listing(self, content: Content) -> int:
        """The list of a folder's files, which comes after all of them."""
        if content.listing is None:
            return 0
        path = self.scratch / "listing"
        path.write_bytes(content.listing)
        local = self.repo.cache.local.fs
        return self._send([_Object(content.hash_info.value, len(content.listing), local, str(path))])

    def _send(self, objects: list[_Object]) -> int:
        """Brings what the remote lacks to it, and looks again; returns how many objects that were."""
        unique = list({item.md5: item for item in objects}.values())
        with _clear_errors(self):
            sizes = self._sizes(unique)
            missing = [item for item, size in zip(unique, sizes, strict=True) if size != item.size]
            if not missing:
                return 0
            for item, size in zip(unique, sizes, strict=True):
                # What a killed upload left half-written must not be taken for the object.
                if size not in (None, item.size):
                    self.odb.delete(item.md5)
            self._add(missing)
            for item, size in zip(missing, self._sizes(missing), strict=True):
                if size != item.size:
                    raise InputError(
                        f"DVC remote {self.name} ({self.url}): {item.path} did not arrive whole ({size} of {item.size}"
                        " bytes); run the same command again"
                    )
        return len(missing)

    def _add(self, objects: list[_Object]) -> None:
        failures: list[BaseException] = []
        for filesystem in {id(item.filesystem): item.filesystem for item in objects}.values():
            ours = [item for item in objects if item.filesystem is filesystem]
            self.odb.add(
                [item.path for item in ours],
                filesystem,
                [item.md5 for item in ours],
                on_error=lambda _, error: failures.append(error),
            )
        if failures:
            raise failures[0]

    def _sizes(self, objects: list[_Object]) -> list[int | None]:
        """How many bytes of each are in the remote; None where there is nothing."""

        def size(item: _Object) -> int | None:
            try:
                return self.odb.fs.info(self.odb.oid_to_path(item.md5))["size"]
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(_LOOKUPS) as pool:
            return list(pool.map(size, objects))


@dataclass(frozen=True)
class _Ignore:
    """DVC's protocol for leaving files out, by their path relative to `root`."""

    root: Path
    leaves_out: Callable[[str], bool]

    def walk(self, filesystem: Any, path: str, **_: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, files in filesystem.walk(path):
            base = Path(folder).relative_to(self.root)
            for names in (folders, files):
                names[:] = sorted(name for name in names if not self.leaves_out((base / name).as_posix()))
            yield folder, folders, files

    def find(self, filesystem: Any, path: str) -> Iterator[str]:
        for folder, _, files in self.walk(filesystem, path):
            yield from (f"{folder}/{name}" for name in files)


def is_temporary(path: str) -> bool:
    """Whether the name is one of those that files have while they are written (get3d_model.files)."""
    name = path.rsplit("/", 1)[-1]
    return name.startswith(".") and any(
        name.endswith(suffix) or f"{suffix}." in name for suffix in _TEMPORARY_SUFFIXES
    )


def _stamps(source: Path, ignore: Callable[[str], bool]) -> dict[str, tuple[int, int]]:
    """Size and time of every file, by which a change is noticed. Raises InputError for what DVC cannot record."""
    if source.is_file():
        files = [str(source)]
    else:
        files = []
        for folder, folders, names in _Ignore(source, ignore).walk(os, str(source)):
            for name in folders:
                if os.path.islink(f"{folder}/{name}"):
                    # DVC would leave out what is behind it, and say nothing.
                    raise InputError(f"{folder}/{name} is a link to a folder; put the folder itself there")
            files += [f"{folder}/{name}" for name in names]
    stamps = {}
    for file in files:
        try:
            file.encode()
        except UnicodeEncodeError:
            raise InputError(f"{file!r}: the name is not UTF-8; rename the file") from None
        try:
            found = os.stat(file)
        except FileNotFoundError:
            if not os.path.islink(file):
                raise
            raise InputError(f"{file} is a link to nothing; remove it") from None
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{file} is neither a file nor a folder; remove it")
        stamps[file] = found.st_size, found.st_mtime_ns
    return stamps


@contextlib.contextmanager
def _clear_errors(store: RemoteStore) -> Iterator[None]:
    """Errors of the drivers, each of another library, in one line. DVC's own log of them is silent meanwhile."""
    where = f"DVC remote {store.name} ({store.url})"
    logging.getLogger("dvc_data").setLevel(logging.CRITICAL)
    try:
        with clear_disk_errors(Path(store.url), "make space or access, then run the same command again"):
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where} failed: {one_line(error)}; the run's outputs are untouched, run the same command again"
        ) from error
