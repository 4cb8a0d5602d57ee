"""A data set that is read from a shared volume or an object store, and copied to local disk while it is used.

Training begins as soon as the manifest and the index are here: an image whose shard is not on the local disk yet is
read from where the data set is, by its place in the tar. Meanwhile a thread copies whole shards, as many as the cache
may hold. What is in stays in: with every image equally likely, replacing would gain nothing. So a data set of any size
is used with a disk of any size, and every byte of a shard on the local disk was transferred once.

Shape legend: N samples
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from get3d_model.data.manifest import MANIFEST_NAME
from get3d_model.data.remote import is_store_error, open_store
from get3d_model.data.shard_source import ShardSource
from get3d_model.errors import InputError
from get3d_model.files import atomic_path, sha256_file, write_bytes_atomic

_LOCK_NAME = ".lock"
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
# Left free on the disk of the cache, whatever the budget.
_SPARE_BYTES = 1 << 28


class StagedSource(ShardSource):
    """A `SampleSource`; safe to use from threads. Copies to other processes read without copying shards.

    `path` is the folder in the cache: it holds the manifest and the index, and shards by and by.
    """

    def __init__(
        self,
        url: str,
        cache: Path,
        cache_bytes: int,
        share: tuple[int, int] = (0, 1),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Opens the data set and starts to copy its shards.

        url: an address such as s3://bucket/set, or a folder.
        cache: a folder on local disk, for data sets of all kinds; those that no process uses any more are removed.
        cache_bytes: at most so many bytes of shards are kept there by all processes together.
        share: this process's number and their count, among those of this machine that open the same data set
            with the same cache.
        Raises InputError when there is no finished data set in shards, and for trouble with the store.
        """
        self.url = url.rstrip("/")
        self._address = self.url if "://" in self.url else Path(self.url).absolute().as_uri()
        self._say = say
        self._error: InputError | None = None
        self._stores: tuple[int, Any, str] | None = None
        with open_store(self._address) as (store, root):
            try:
                manifest = store.cat_file(f"{root}/{MANIFEST_NAME}")
            except FileNotFoundError:
                raise InputError(
                    f"{self.url} holds no finished data set: it has no {MANIFEST_NAME}; `get3d data push` writes it last"
                ) from None
            try:
                content = json.loads(manifest)
                index = content["index"]
                shards = content["shards"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.url}/{MANIFEST_NAME} is damaged ({error}); push it again") from error
            if not shards or not index:
                raise InputError(
                    f"{self.url} is not in shards with an index; `get3d data convert --to shards` makes them"
                )
            folder = Path(cache).absolute() / hashlib.sha256(manifest).hexdigest()[:16]
            self._lock: IO[str] | None = _hold(folder)
            _remove_unused(folder)
            _remove_leftovers(folder)
            here = folder / index["file"]
            if not here.is_file() or sha256_file(here) != index["sha256"]:
                write_bytes_atomic(here, store.cat_file(f"{root}/{index['file']}"))
            write_bytes_atomic(folder / MANIFEST_NAME, manifest)
        super().__init__(folder)
        self._plan = self._choose(cache_bytes)
        self._here = [False] * len(self.manifest.shards)
        self._stopped = threading.Event()
        chosen = [shard for place, shard in enumerate(self._plan) if place % share[1] == share[0]]
        total, kept = (
            sum(self.manifest.shards[i].bytes for i in group) for group in (range(len(shards)), self._plan)
        )
        if share[0] == 0:
            say(
                f"reading {self.url}: {len(shards)} shards, {total / 1e9:.2f} GB, of which {len(self._plan)}, "
                f"{kept / 1e9:.2f} GB, are being copied to {folder}"
            )
        self._thread: threading.Thread | None = threading.Thread(
            target=self._stage, args=(chosen,), name="get3d-stage", daemon=True
        )
        self._thread.start()

    def _check(self) -> None:
        """The shards are elsewhere."""

    def _choose(self, cache_bytes: int) -> list[int]:
        """The shards that fit, the same ones for all processes and every start."""
        free = shutil.disk_usage(self.path).free - _SPARE_BYTES
        staged = sum(
            stored.bytes
            for stored, path in zip(self.manifest.shards, self._paths, strict=True)
            if os.path.isfile(path)
        )
        left, chosen = min(cache_bytes, free + staged), []
        for number, stored in enumerate(self.manifest.shards):
            if stored.bytes <= left:
                left -= stored.bytes
                chosen.append(number)
        return chosen

    @property
    def staged(self) -> int:
        """How many shards are on the local disk."""
        return sum(self._is_here(shard) for shard in range(len(self._here)))

    def _is_here(self, shard: int) -> bool:
        # A shard gets its name when it is complete and compared with the manifest.
        if not self._here[shard]:
            self._here[shard] = os.path.isfile(self._paths[shard])
        return self._here[shard]

    def _read(self, shard: int, offset: int, length: int) -> bytes:
        if self._error is not None:
            raise self._error
        if self._is_here(shard):
            try:
                return super()._read(shard, offset, length)
            except FileNotFoundError:
                self._here[shard] = False  # somebody cleared the cache
        name = self.manifest.shards[shard].file
        return self._patiently(
            lambda store, root: store.cat_file(f"{root}/{name}", start=offset, end=offset + length)
        )

    def _patiently(self, call: Callable[[Any, str], Any]) -> Any:
        """Object stores refuse now and then; raises OSError when one does so for long."""
        for attempt in range(_ATTEMPTS):
            try:
                return call(*self._store())
            except FileNotFoundError:
                raise
            except Exception as error:
                if not is_store_error(error):
                    raise
                if attempt == _ATTEMPTS - 1:
                    raise OSError(f"{type(error).__name__}: {error}") from error
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError

    def _store(self) -> tuple[Any, str]:
        # The connections of another process must not be used.
        if self._stores is None or self._stores[0] != os.getpid():
            import fsspec

            fresh = {} if self._stores is None else {"skip_instance_cache": True}
            store, root = fsspec.core.url_to_fs(self._address, **fresh)
            self._stores = (os.getpid(), store, root.rstrip("/"))
        return self._stores[1:]

    def _stage(self, chosen: list[int]) -> None:
        count = 0
        for number in chosen:
            if self._stopped.is_set():
                return
            stored = self.manifest.shards[number]
            target = Path(self._paths[number])
            if target.is_file():
                continue
            try:
                with atomic_path(target) as temporary:
                    self._patiently(
                        lambda store, root, n=stored.file, t=temporary: store.get_file(f"{root}/{n}", str(t))
                    )
                    if sha256_file(temporary) != stored.sha256:
                        raise InputError(
                            f"{self.url}/{stored.file} is not the file that its manifest describes;"
                            " remove it there and push it again"
                        )
                count += 1
            except InputError as error:
                self._error = error
                return
            except OSError as error:
                self._say(
                    f"{stored.file} cannot be copied to {self.path} ({error}); going on without more copies, reading from "
                    f"{self.url}"
                )
                return
        self._say(f"copied {count} shards to {self.path}")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until this process's share is copied; whether it is."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def close(self) -> None:
        """Stops copying. What is copied stays for the next start."""
        self._stopped.set()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def describe(self, index: int) -> str:
        inside = super().describe(index).removeprefix(f"{self.path}/")
        return f"{self.url}/{inside}"

    def __getstate__(self) -> dict[str, Any]:
        gone = {"_thread": None, "_lock": None, "_stores": None, "_stopped": None, "_say": None}
        return {**self.__dict__, **gone}


def _hold(folder: Path) -> IO[str] | None:
    """A lock that says that the folder is used."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / _LOCK_NAME, "a")  # noqa: SIM115
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        except OSError:
            handle.close()
            return None  # a file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(folder / _LOCK_NAME), os.fstat(handle.fileno())):
                return handle
        handle.close()  # the folder was removed in between


def _remove_unused(folder: Path) -> None:
    """Removes the other data sets of the cache that no process uses: the budget is for all of them together."""
    for lock in folder.parent.glob(f"*/{_LOCK_NAME}"):
        if lock.parent == folder:
            continue
        with suppress(OSError), open(lock, "a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Half-copied shards of processes that are gone."""
    for path in folder.rglob(".*.tmp*"):
        process = path.name.rpartition(".tmp")[0].rpartition(".")[2]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            path.unlink(missing_ok=True)
