"""Splits: lists of shape ids, from files (one id per line) or from a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from get3d_model.errors import InputError


def read_split_file(path: Path) -> list[str]:
    """The ids of a split file, one per line; blank lines and lines that start with # are skipped.

    Raises InputError when the file is missing, empty, or lists an id twice.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
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


def hash_split(shape_ids: Iterable[str], val_fraction: float, seed: int) -> dict[str, list[str]]:
    """A train and a val list in which a shape's place does not depend on the other shapes.

    A shape goes to val when its hash, a number in [0, 1), is below `val_fraction`. With two shapes or more
    and a fraction above 0 neither list is empty: the shapes with the lowest (highest) hash see to that.
    """
    if not 0.0 <= val_fraction < 1.0:
        raise InputError(f"the validation fraction must be at least 0 and below 1, got {val_fraction}")
    rank = {
        shape_id: int.from_bytes(hashlib.sha256(f"split/{seed}/{shape_id}".encode()).digest()[:6], "big")
        / 2**48
        for shape_id in shape_ids
    }
    ordered = sorted(rank, key=lambda shape_id: (rank[shape_id], shape_id))
    count = sum(value < val_fraction for value in rank.values())
    if val_fraction > 0.0 and len(ordered) >= 2:
        count = min(max(count, 1), len(ordered) - 1)
    return {"train": sorted(ordered[count:]), "val": sorted(ordered[:count])}
