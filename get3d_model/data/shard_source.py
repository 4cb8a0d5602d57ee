"""Random access to a data set in the shard format.

Shape legend: N samples
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import numpy as np

from get3d_model.data.base import SampleTable
from get3d_model.data.manifest import Manifest, read_manifest
from get3d_model.data.shards import build_index, member_stem
from get3d_model.data.splits import split_groups
from get3d_model.errors import InputError
from get3d_model.files import sha256_file

_OPEN_FILES = 64


class ShardSource:
    """Random access to the images of a finished data set in the shard format (a `SampleSource`).

    Safe to use from threads, and in processes that were forked or spawned from this one: reads go by
    offset (`pread`), so that processes that share a file do not disturb each other.
    """

    layout = "shards"

    def __init__(self, path: Path) -> None:
        """Raises InputError when the manifest does not match the tars on disk (by name and size)."""
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._check()
        self.resolution = self.manifest.resolution
        self.splits = {name: list(ids) for name, ids in self.manifest.splits.items()}
        shape_ids = tuple(sorted(self.manifest.shapes))
        index_N = load_index(self.path, self.manifest, shape_ids)
        if len(index_N) != self.manifest.samples:
            raise InputError(
                f"{self.path}: the tars hold {len(index_N)} images,"
                f" the manifest says {self.manifest.samples}; render the data set again"
            )
        index_N = index_N[np.lexsort((index_N["view"], index_N["shape"]))]
        self._shard_N = index_N["shard"].astype(np.int64)
        self._offset_N = index_N["offset"].astype(np.int64)
        self._length_N = index_N["length"].astype(np.int64)
        self.table = SampleTable(
            shape_ids,
            index_N["shape"].astype(np.int32),
            index_N["view"].astype(np.int32),
            index_N["rotation_deg"].astype(np.float64),
            index_N["elevation_deg"].astype(np.float64),
            tuple(
                self.manifest.shapes[shape_id].class_label(self.manifest.category) for shape_id in shape_ids
            ),
        )
        self.groups = split_groups({key: mesh.marks for key, mesh in self.manifest.shapes.items()})
        self._paths = [str(self.path / stored.file) for stored in self.manifest.shards]
        self._files = _OpenFiles()

    def _check(self) -> None:
        check_shards(self.path, self.manifest)

    @property
    def image_bytes(self) -> int:
        """Of all encoded images together."""
        return int(self._length_N.sum())

    def stored_resolution(self, index: int) -> int:
        return self.resolution

    def read_png(self, index: int) -> bytes:
        length = int(self._length_N[index])
        try:
            content = self._read(int(self._shard_N[index]), int(self._offset_N[index]), length)
        except OSError as error:
            raise InputError(f"{self.describe(index)} cannot be read ({error}); check the disk") from error
        if len(content) != length:
            raise InputError(f"{self.describe(index)} ends early; render the data set again")
        return content

    def _read(self, shard: int, offset: int, length: int) -> bytes:
        """These bytes of a tar. Raises OSError."""
        file = self._files.get(self._paths[shard])  # kept: dropped by another thread, it would be closed
        return os.pread(file.fileno(), length, offset)

    def describe(self, index: int) -> str:
        shard = self.manifest.shards[int(self._shard_N[index])].file
        shape_id = self.table.shape_ids[int(self.table.shape_N[index])]
        return f"{self.path / shard}:{member_stem(shape_id, int(self.table.view_N[index]))}.png"


class _OpenFiles:
    """The files read last, kept open. Copies to another process, by fork or pickle, start with none."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, FileIO] = OrderedDict()
        self._process = os.getpid()

    def get(self, path: str) -> FileIO:
        """An open file; one that is dropped here is closed when the last reader lets go of it."""
        if self._process != os.getpid():
            # A lock that another thread held at the fork would never be released in the child.
            self._reset()
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = open(path, "rb", buffering=0)  # noqa: SIM115
            self._files.move_to_end(path)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        return file

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        return _OpenFiles, ()


def check_shards(root: Path, manifest: Manifest) -> None:
    """Compares names and sizes of the tars on disk with the manifest. Raises InputError."""
    if not manifest.shards:
        raise InputError(f"{root}: the manifest lists no shards; render again with `--layout shards`")
    for stored in manifest.shards:
        path = Path(root) / stored.file
        if not path.is_file():
            raise InputError(
                f"{path} is missing, but the manifest lists it; fetch it or render the data set again"
            )
        if path.stat().st_size != stored.bytes:
            raise InputError(
                f"{path} has {path.stat().st_size} bytes, the manifest says {stored.bytes};"
                " fetch it or render the data set again"
            )
    known = {stored.file for stored in manifest.shards}
    for path in sorted((Path(root) / "shards").glob("*.tar")):
        # A hidden file is a temporary one that an interrupted copy left behind.
        if not path.name.startswith(".") and f"shards/{path.name}" not in known:
            raise InputError(f"{path} is not in the manifest; remove it or render the data set again")


def load_index(root: Path, manifest: Manifest, shape_ids: Sequence[str]) -> np.ndarray:
    """The index rows of a data set, from its file or else from its tars. shape_ids: all, sorted.

    Raises InputError when the file is not the one the manifest describes.
    """
    files = [stored.file for stored in manifest.shards]
    if manifest.index is None or not (root / manifest.index.file).is_file():
        # A data set copied without its index is still complete: the tars say the same.
        return build_index(root, files, shape_ids)
    path = root / manifest.index.file
    if path.stat().st_size != manifest.index.bytes or sha256_file(path) != manifest.index.sha256:
        raise InputError(
            f"{path} is not the index the manifest describes; delete it to have it read from the tars"
        )
    return np.load(path, allow_pickle=False)
