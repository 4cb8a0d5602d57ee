"""Where the served model repository lies: a folder, or an object store by fsspec (s3://bucket/models, gs://...).

Whatever is written appears whole: in a folder by renaming, in an object store because its last file, the model card,
is what makes a version count. Names are paths relative to the repository, with slashes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from get3d_model.data.remote import is_store_error
from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic
from serving.repository import CARD_FILE

LOCK_FILE = "deploy.lock"
HEARTBEAT_S = 5.0
LEASE_S = 20.0
"""A lock in an object store whose heartbeat has stood still for so long belongs to a process that was killed."""
SETTLE_S = 1.0
"""How long writes of several processes at the same time may take to show in an object store."""
UPLOAD_PREFIX = ".upload-"


class LeaseLost(InputError):
    """Another process has taken over the lock, since this one stood still for too long (a paused machine, say)."""


class Store(Protocol):
    """location: for messages."""

    location: str

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file; readers see the old or the new content, nothing between."""

    def folders(self, name: str) -> list[str]:
        """Names of the folders in a folder."""

    def upload(self, folder: Path, name: str) -> None:
        """Copies a folder to the new folder `name`, which appears whole, or without its model card until it is."""

    def copy(self, name: str, to: str) -> None:
        """Copies a folder within the store (links where it can), replacing `to`."""

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it is there. The model card goes first."""

    def lock(self) -> Any:
        """A context that only one process on any machine is in. Raises InputError when another one is.

        Inside, what changes the store raises LeaseLost once another process has taken over.
        """


def open_store(location: str) -> Store:
    """Raises InputError for a scheme whose driver is not installed."""
    if "://" not in location:
        if re.match(r"\w+:/", location):
            raise InputError(f"{location} is neither a folder nor an address; write scheme://bucket/folder")
        return FolderStore(Path(location))
    if location.startswith("file://"):
        return FolderStore(Path(location.removeprefix("file://")))
    return ObjectStore(location)


class FolderStore:
    """A folder on a local or a shared disk."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.location = str(root)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        write_bytes_atomic(self.root / name, content)
        (self.root / name).chmod(0o644)

    def folders(self, name: str) -> list[str]:
        folder = self.root / name
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    def upload(self, folder: Path, name: str) -> None:
        self._fill(name, folder, link=False)

    def copy(self, name: str, to: str) -> None:
        self.remove(to)
        self._fill(to, self.root / name, link=True)

    def remove(self, name: str) -> None:
        path = self.root / name
        if path.is_dir():
            retired = path.with_name(f"{UPLOAD_PREFIX}old-{path.name}")
            shutil.rmtree(retired, ignore_errors=True)
            os.replace(path, retired)
            shutil.rmtree(retired)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the kernel, so that it ends with a process that is killed."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / LOCK_FILE, "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise _locked(self.location, handle.read()) from None
            handle.truncate(0)
            handle.write(_owner())
            handle.flush()
            self._remove_leftovers()
            yield

    def _fill(self, name: str, source: Path, link: bool) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f"{UPLOAD_PREFIX}{path.name}")
        shutil.rmtree(staged, ignore_errors=True)
        ignore = shutil.ignore_patterns("__pycache__")
        try:
            shutil.copytree(source, staged, copy_function=_link if link else _copy, ignore=ignore)
            for folder, _, _ in os.walk(staged):
                os.chmod(folder, 0o755)
            os.rename(staged, path)
        except shutil.Error as error:
            # It collects one reason per file, each a text; the first says what is wrong.
            raise InputError(f"{path}: cannot be written ({error.args[0][0][2]})") from None
        finally:
            # After a failure; half an upload would keep a full disk full.
            shutil.rmtree(staged, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Of processes that were killed; called with the lock held."""
        for path in [
            *self.root.glob(f"*/{UPLOAD_PREFIX}*"),
            *self.root.glob("*/.*.tmp*"),
            *self.root.glob(".*.tmp*"),
        ]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _copy(source: str, target: str) -> None:
    """Copies, and has the content on the disk before its folder gets its name."""
    shutil.copyfile(source, target)
    os.chmod(target, 0o644)
    with open(target, "rb") as handle:
        os.fsync(handle.fileno())


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        _copy(source, target)


class ObjectStore:
    """A prefix in an object store. A folder exists there by its files alone."""

    def __init__(self, location: str) -> None:
        import fsspec

        self.location = location.rstrip("/")
        try:
            self._fs, root = fsspec.core.url_to_fs(
                self.location, use_listings_cache=False, skip_instance_cache=True
            )
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{location} cannot be opened ({error}); install the driver of its scheme"
            ) from None
        self._root = root.rstrip("/")
        self._token: str | None = None

    def read(self, name: str) -> bytes | None:
        with self._errors():
            try:
                return self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        self._check_lease()
        self._put(name, content)

    def _put(self, name: str, content: bytes) -> None:
        with self._errors():
            self._fs.pipe_file(self._path(name), content)

    def folders(self, name: str) -> list[str]:
        return sorted({file.split("/", 1)[0] for file in self._files(name) if "/" in file})

    def upload(self, folder: Path, name: str) -> None:
        self.remove(name)
        files = [p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        with self._errors():
            for path in sorted(files, key=lambda p: (p.name == CARD_FILE, p)):
                self._fs.put_file(str(path), self._path(f"{name}/{path.relative_to(folder).as_posix()}"))

    def copy(self, name: str, to: str) -> None:
        self.remove(to)
        for file in sorted(self._files(name), key=lambda file: (file == CARD_FILE, file)):
            with self._errors():
                self._fs.cp_file(self._path(f"{name}/{file}"), self._path(f"{to}/{file}"))

    def remove(self, name: str) -> None:
        self._check_lease()
        for file in sorted(self._files(name), key=lambda file: (file != CARD_FILE, file)):
            with self._errors(), suppress(FileNotFoundError):
                self._fs.rm_file(self._path(f"{name}/{file}" if file else name))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """A lease: whoever holds it renews it; one that is not renewed any more is taken over."""
        token = f"{uuid.uuid4().hex} {_owner()}"
        self._acquire(token)
        left = threading.Event()
        beating = threading.Thread(target=self._beat, args=(token, left), daemon=True)
        beating.start()
        self._token = token
        try:
            yield
        finally:
            self._token = None
            left.set()
            beating.join()
            with suppress(InputError):
                if _owner_of(self.read(LOCK_FILE)) == token:
                    self.remove(LOCK_FILE)

    def _acquire(self, token: str) -> None:
        deadline = time.monotonic() + LEASE_S
        seen = self.read(LOCK_FILE)
        while seen is not None and time.monotonic() < deadline:
            time.sleep(min(0.5, HEARTBEAT_S))
            now = self.read(LOCK_FILE)
            if now is not None and now != seen:
                raise _locked(self.location, _owner_of(now).partition(" ")[2])
            seen = now
        self._put(LOCK_FILE, _beat_text(token, 0))
        # Of several that write at the same time the last one has it, once all have written.
        time.sleep(SETTLE_S)
        now = self.read(LOCK_FILE)
        if _owner_of(now) != token:
            raise _locked(self.location, _owner_of(now).partition(" ")[2])

    def _beat(self, token: str, left: threading.Event) -> None:
        count = 0
        while not left.wait(HEARTBEAT_S):
            count += 1
            with suppress(InputError):
                if _owner_of(self.read(LOCK_FILE)) != token:
                    return  # we stood still for so long that another one has taken over; it is theirs now
                self._put(LOCK_FILE, _beat_text(token, count))

    def _check_lease(self) -> None:
        if self._token is None:
            return
        owner = _owner_of(self.read(LOCK_FILE))
        if owner != self._token:
            raise LeaseLost(
                f"{self.location}: this process stood still for so long that another deploy has begun "
                f"({owner.partition(' ')[2].strip() or 'it has ended since'}); what that one serves stays, "
                "deploy again if need be"
            )

    def _files(self, name: str) -> list[str]:
        """Paths below `name`, relative to it; [""] where it is a file itself."""
        path = self._path(name)
        with self._errors():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(path)
            except FileNotFoundError:
                return []
        return [file.removeprefix(path).lstrip("/") for file in found if f"{file}/".startswith(f"{path}/")]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            if isinstance(error, InputError) or not is_store_error(error):
                raise
            raise InputError(
                f"{self.location}: {' '.join(str(error).split())}; check the address, the credentials and the space"
            ) from None


def _owner() -> str:
    return f"{os.uname().nodename} process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}"


def _beat_text(token: str, count: int) -> bytes:
    return json.dumps({"owner": token, "beat": count}).encode()


def _owner_of(content: bytes | None) -> str:
    try:
        return str(json.loads(content or b"{}").get("owner", ""))
    except (ValueError, AttributeError):
        return ""


def _locked(location: str, owner: str) -> InputError:
    return InputError(
        f"{location}: another deploy is under way ({owner.strip() or 'owner unknown'}); wait for it"
    )
