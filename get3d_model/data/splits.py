"""Splits: lists of shape ids, from files (one id per line) or from a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic

SPLIT_NAMES = ("train", "val", "test")


def read_split_file(path: Path) -> list[str]:
    """The ids of a split file, one per line; blank lines and lines that start with # are skipped.

    Raises InputError when the file is missing, empty, or lists an id twice.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"split file {path} cannot be read ({error}); give a text file with one shape id per line"
        ) from error
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise InputError(f"split file {path} lists no shape; put one shape id on each line")
    if len(set(ids)) != len(ids):
        repeated = sorted({shape_id for shape_id in ids if ids.count(shape_id) > 1})
        raise InputError(f"split file {path} lists {repeated[0]!r} more than once; remove the repetition")
    return ids


def write_split_files(folder: Path, splits: Mapping[str, Iterable[str]]) -> None:
    """One `<split>.txt` for every split that names a shape, as `read_split_files` takes them; old ones go."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted({*SPLIT_NAMES, *splits}):
        ids = list(splits.get(name, ()))
        if ids:
            write_bytes_atomic(folder / f"{name}.txt", "".join(f"{shape_id}\n" for shape_id in ids).encode())
        else:
            (folder / f"{name}.txt").unlink(missing_ok=True)


def read_split_files(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """Reads the file of every split. Raises InputError when a shape is in two splits."""
    splits = {name: read_split_file(path) for name, path in files.items()}
    owner: dict[str, str] = {}
    for name, ids in splits.items():
        for shape_id in ids:
            if shape_id in owner:
                raise InputError(
                    f"shape {shape_id!r} is in both {files[owner[shape_id]]} and {files[name]};"
                    " keep it in one of them"
                )
            owner[shape_id] = name
    return splits


def hash_split(
    shape_ids: Iterable[str], val_fraction: float, seed: int, groups: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """A train and a val list in which a shape's place does not depend on the other shapes.

    A shape goes to val when its hash, a number in [0, 1), is below `val_fraction`. With two shapes or more
    and a fraction above 0 neither list is empty: the shapes with the lowest (highest) hash see to that.
    groups: a name by shape id, see `split_groups`; shapes with one name go together, by the hash of the name.
    """
    if not 0.0 <= val_fraction < 1.0:
        raise InputError(f"the validation fraction must be at least 0 and below 1, got {val_fraction}")
    members: dict[str, list[str]] = {}
    for shape_id in shape_ids:
        members.setdefault((groups or {}).get(shape_id, shape_id), []).append(shape_id)
    rank = {
        name: int.from_bytes(hashlib.sha256(f"split/{seed}/{name}".encode()).digest()[:6], "big") / 2**48
        for name in members
    }
    ordered = sorted(rank, key=lambda name: (rank[name], name))
    count = sum(value < val_fraction for value in rank.values())
    if val_fraction > 0.0 and len(ordered) >= 2:
        count = min(max(count, 1), len(ordered) - 1)
    return {
        split: sorted(shape_id for name in names for shape_id in members[name])
        for split, names in (("train", ordered[count:]), ("val", ordered[:count]))
    }


def split_groups(marks: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Shapes that must not be torn apart, from the marks of every shape id: one mark in common is enough.

    Returns the name of its group, which is the first of its shape ids, for every shape that is not alone.
    """
    parent = {shape_id: shape_id for shape_id in marks}

    def root(shape_id: str) -> str:
        while parent[shape_id] != shape_id:
            parent[shape_id] = parent[parent[shape_id]]
            shape_id = parent[shape_id]
        return shape_id

    first: dict[str, str] = {}
    for shape_id in sorted(marks):
        for mark in marks[shape_id]:
            low, high = sorted((root(first.setdefault(mark, shape_id)), root(shape_id)))
            parent[high] = low
    names = {shape_id: root(shape_id) for shape_id in marks}
    shared = {name for shape_id, name in names.items() if name != shape_id}
    return {shape_id: name for shape_id, name in names.items() if name in shared}
