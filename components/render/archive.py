"""Meshes in a .zip: checked as a whole before a byte is written, then unpacked into a temporary folder."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from get3d_model.errors import InputError

# Meshes and pictures shrink by a factor of 2 to 20; a bomb by a thousand. Small archives may do as they like.
MAX_RATIO = 100
FREE_BYTES = 2**30
MAX_ENTRIES = 2_000_000
_IGNORED = ("__MACOSX",)
# What zipfile and its decoders make of broken bytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


def is_archive(path: Path) -> bool:
    """Whether the mesh folder is given as a .zip."""
    return Path(path).suffix.lower() == ".zip" and Path(path).is_file()


@contextlib.contextmanager
def mesh_folder(meshes: Path) -> Iterator[Path]:
    """The mesh folder, unpacked for the time being if it is a .zip. Raises InputError as `unpacked`."""
    if not is_archive(meshes):
        yield meshes
        return
    with tempfile.TemporaryDirectory() as temporary, unpacked(meshes, Path(temporary) / "meshes") as folder:
        yield folder


@contextlib.contextmanager
def unpacked(archive: Path, into: Path) -> Iterator[Path]:
    """Unpacks `archive` into the folder `into` and yields the mesh folder in there; removes it at the end.

    The mesh folder is the only folder of the archive when everything lies in one.
    Raises InputError for a damaged or encrypted archive, for entries that are links or would lie outside
    (absolute names, `..`), twice the same name, and for contents too large for their archive or the disk.
    """
    shutil.rmtree(into, ignore_errors=True)
    try:
        try:
            with zipfile.ZipFile(archive) as opened:
                entries = [info for info in opened.infolist() if _parts(info)[0] not in _IGNORED]
                _check(archive, entries, into)
                into.mkdir(parents=True)
                for info in entries:
                    _extract(opened, info, into)
        except _DAMAGE as error:
            raise InputError(f"{archive} is damaged ({error}); copy or zip it again") from error
        except OSError as error:
            raise InputError(
                f"{archive} cannot be unpacked into {into} ({error.strerror or error})"
            ) from error
        yield _mesh_folder(into)
    finally:
        shutil.rmtree(into, ignore_errors=True)


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    return tuple(info.filename.replace("\\", "/").rstrip("/").split("/"))


def _check(archive: Path, entries: list[zipfile.ZipInfo], into: Path) -> None:
    def refuse(info: zipfile.ZipInfo, reason: str) -> InputError:
        return InputError(f"{archive} is refused: its entry {info.filename[:120]!r} {reason}")

    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{archive} is refused: it has {len(entries)} entries, more than {MAX_ENTRIES}")
    names: set[tuple[str, ...]] = set()
    for info in entries:
        parts = _parts(info)
        if parts[0] == "" or ".." in parts or ":" in parts[0]:
            raise refuse(info, "would lie outside of the folder")
        if any(part in ("", ".") for part in parts) or any(ord(letter) < 32 for letter in info.filename):
            raise refuse(info, "has no proper name")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refuse(info, "is a link or device; zip the files themselves")
        if info.flag_bits & 1:
            raise refuse(info, "is encrypted; zip it without a password")
        if parts in names and not info.is_dir():
            raise refuse(info, "is there twice")
        names.add(parts)
    packed, content = archive.stat().st_size, sum(info.file_size for info in entries)
    if content > max(FREE_BYTES, MAX_RATIO * packed):
        raise InputError(
            f"{archive} is refused: its {packed} bytes claim to hold {content}; unpack it yourself if that is right"
        )
    existing = next(folder for folder in (into, *into.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if content > free:
        raise InputError(
            f"{archive} holds {content} bytes, but only {free} are free at {existing}; make space"
        )


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, into: Path) -> None:
    path = into.joinpath(*_parts(info))
    if info.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # zipfile gives no more than the size that was checked, and checks the sum.
    with opened.open(info) as source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, 2**20)


def _mesh_folder(into: Path) -> Path:
    entries = [path for path in into.iterdir() if not path.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else into
