"""The output folder: locked while a run works in it, resumable, and replaced only by something complete.

OUT/.partial/pieces/<key>.piece   the images of one shape, written atomically; found again by key
OUT/.partial/plan.json            which pieces make the next data set; written when all are rendered
OUT/.partial/out/                 the next data set; complete once it holds manifest.json
OUT/.partial/old/                 the previous data set, while the next one moves into place
OUT/.partial/retired              marks that everything old has moved out of the way
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from get3d_model.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from get3d_model.data.parts import NOTES_NAME, REJECTED_NAME, SPLITS_FOLDER, Shard, find_parts
from get3d_model.data.shards import INDEX_NAME
from get3d_model.errors import InputError
from get3d_model.files import remove_temporaries, write_bytes_atomic, write_json_atomic

# Everything that a run may put into OUT, the manifest excepted, which goes first and comes last.
MANAGED = (
    "shards",
    INDEX_NAME,
    "img",
    "camera",
    "train.txt",
    "val.txt",
    "test.txt",
    SPLITS_FOLDER,
    REJECTED_NAME,
    NOTES_NAME,
)


@dataclass(frozen=True)
class Plan:
    """How rendering ended. accepted: shape ids with images, sorted. rejected: reasons by shape id."""

    accepted: list[str]
    rejected: dict[str, str]


class OutputFolder:
    """One run's hold on OUT; made by `open_output`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.partial = out / ".partial"
        self.pieces = self.partial / "pieces"
        self.staged = self.partial / "out"
        self._plan = self.partial / "plan.json"

    def piece(self, key: str) -> Path:
        return self.pieces / f"{key}.piece"

    def finished(self) -> Manifest | None:
        """The manifest of the data set that stands in OUT, None when there is none."""
        return read_manifest(self.out) if (self.out / MANIFEST_NAME).exists() else None

    def begin(self, run: str, keys: set[str]) -> Plan | None:
        """Readies the work folder for a run, of which `run` is the hash of all settings and inputs.

        Returns the plan when the same run was stopped while it put pieces together; else only the pieces
        with these keys stay, and everything else is left over and goes.
        """
        self.pieces.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.partial / "old", ignore_errors=True)
        (self.partial / "retired").unlink(missing_ok=True)
        if self._plan.is_file():
            plan = json.loads(self._plan.read_text())
            if plan["run"] == run:
                for path in (self.staged, self.staged / "shards", self.staged / "splits"):
                    remove_temporaries(path)
                return Plan(plan["accepted"], plan["rejected"])
            self._plan.unlink()
        shutil.rmtree(self.staged, ignore_errors=True)
        for path in self.pieces.iterdir():
            if path.suffix != ".piece" or path.stem not in keys:
                path.unlink()
        return None

    def save_plan(self, run: str, plan: Plan) -> None:
        write_json_atomic(self._plan, {"run": run, "accepted": plan.accepted, "rejected": plan.rejected})

    def tidy(self) -> None:
        """Removes the work folder when nothing is left in it that a later run could use."""
        for folder in (self.pieces, self.partial):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def commit(self) -> None:
        """Moves the staged data set into place; what an interrupted call left undone, the next one does.

        OUT has no manifest in between, so nobody can read a mixture of old and new.
        """
        retired, old = self.partial / "retired", self.partial / "old"
        (self.out / MANIFEST_NAME).unlink(missing_ok=True)
        old.mkdir(exist_ok=True)
        if not retired.exists():
            for name in MANAGED:
                if (self.out / name).exists():
                    os.replace(self.out / name, old / name)
            write_bytes_atomic(retired, b"")
        for name in MANAGED:
            if (self.staged / name).exists():
                os.replace(self.staged / name, self.out / name)
        os.replace(self.staged / MANIFEST_NAME, self.out / MANIFEST_NAME)
        shutil.rmtree(self.partial)

    def clean(self) -> None:
        """Removes what a stopped run left, where OUT holds what is wanted already."""
        if self.partial.exists():
            shutil.rmtree(self.partial)


@contextmanager
def open_output(out: Path) -> Iterator[OutputFolder]:
    """Locks OUT for this process and finishes what a run that was stopped while moving files had begun.

    Raises InputError when OUT holds files of something else, cannot be made, or another run works in it.
    """
    out = Path(out).absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the output folder {out} cannot be made ({error.strerror}); choose another one"
        ) from error
    folder = OutputFolder(out)
    handle = os.open(out, os.O_RDONLY)
    try:
        _lock(handle, out)
        _check_owned(folder)
        # A run that was killed while it wrote one of the files that stand in OUT itself.
        for path in (out, out / "splits"):
            remove_temporaries(path)
        if (folder.staged / MANIFEST_NAME).exists():
            folder.commit()
        yield folder
    finally:
        os.close(handle)


def part_folder(out: Path, shard: Shard) -> Path:
    """Where a job of several puts its part of the data set `out`.

    Raises InputError when `out` holds something else than parts and what a merge makes of them.
    """
    if shard.whole:
        return Path(out)
    merged = (MANIFEST_NAME, INDEX_NAME, REJECTED_NAME, NOTES_NAME, SPLITS_FOLDER)
    ours = {*merged, "lost+found", *(path.name for path in find_parts(out))}
    entries = sorted(path.name for path in Path(out).iterdir()) if Path(out).is_dir() else []
    foreign = [name for name in entries if not (name in ours or name.startswith("."))]
    if foreign or ".partial" in entries:
        raise InputError(
            f"{out} holds {(foreign or ['.partial'])[0]}, which is no part of a data set; choose an empty folder"
        )
    return Path(out) / shard.folder


def _lock(handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks; there the user has to take care.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InputError(f"another run is writing {out}; wait for it or choose another folder") from error


def _check_owned(folder: OutputFolder) -> None:
    """A run replaces what stands in OUT, so it must be sure that a run put it there."""
    parts = find_parts(folder.out)
    if parts:
        raise InputError(
            f"{folder.out} holds {parts[0].name}: render with --shard, or choose an empty folder"
        )
    if (folder.out / MANIFEST_NAME).exists():
        try:
            folder.finished()
        except InputError as error:
            raise InputError(f"{error}: remove {folder.out} or choose another folder") from error
    elif not folder.partial.is_dir():
        foreign = sorted(path.name for path in folder.out.iterdir() if path.name != "lost+found")
        if foreign:
            raise InputError(
                f"{folder.out} holds files that are no data set of this program, such as {foreign[0]};"
                " choose an empty folder"
            )
