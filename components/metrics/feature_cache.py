"""What was computed of a mesh file, kept by the file's hash: surface points, descriptors, quality.

An entry is one small .npz, written atomically, so several processes may share a folder. A damaged one is made anew.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from get3d_model.errors import InputError
from get3d_model.files import clear_disk_errors, sha256_json, write_bytes_atomic


@dataclass(frozen=True)
class FeatureCache:
    """folder: where; none keeps nothing. optional: a folder that cannot be written costs a warning and time, no more:
    nobody asked for that one."""

    folder: Path | None
    optional: bool = False
    _failed: list[OSError] = field(default_factory=list, init=False, repr=False, compare=False)

    def get(self, kind: str, sha256: str, settings: Mapping[str, Any]) -> np.ndarray | None:
        """The array that was put under the same kind, file hash and settings."""
        if self.folder is None or not sha256:
            return None
        try:
            with np.load(self._path(kind, sha256, settings), allow_pickle=False) as entry:
                return entry["value"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, kind: str, sha256: str, settings: Mapping[str, Any], value: np.ndarray) -> None:
        """Raises InputError where the folder cannot be written, unless it is optional."""
        if self.folder is None or not sha256 or self._failed:
            return
        stream = io.BytesIO()
        np.savez_compressed(stream, value=value)
        with clear_disk_errors(self.folder, "name another folder with --cache, or use --no-cache"):
            try:
                write_bytes_atomic(self._path(kind, sha256, settings), stream.getvalue())
            except OSError as error:
                if self.optional:
                    self._failed.append(error)
                    tqdm.write(
                        f"warning: the cache {self.folder} cannot be written ({error.strerror}), so nothing is kept for "
                        "the next time; GET3D_CACHE names another folder",
                        file=sys.stderr,
                    )
                elif isinstance(error, (NotADirectoryError, FileExistsError, FileNotFoundError)):
                    raise InputError(f"--cache {self.folder} is no folder; name another") from error
                else:
                    raise

    def _path(self, kind: str, sha256: str, settings: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        return self.folder / sha256[:2] / f"{sha256}-{kind}-{sha256_json(dict(settings))[:12]}.npz"
