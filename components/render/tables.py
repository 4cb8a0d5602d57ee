"""Files that say something about shapes: captions, labels, groups; and scales by label."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from components.render.inputs import MeshFile
from get3d_model.errors import InputError


def read_table(path: Path, column: str) -> dict[str, str]:
    """Shape names and what the file says of them under `column`.

    JSON: an object from names to texts, or to objects of which `column` is taken. CSV: a head line, names in
    the first column, and a column called `column`, or else the second.
    Raises InputError for a file that cannot be read, is none of these, or says two things of one name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the {column} file {path} cannot be read ({error}); give a .json or .csv"
        ) from error
    pairs = (
        _json_pairs(path, text, column) if path.suffix.lower() == ".json" else _csv_pairs(path, text, column)
    )
    table: dict[str, str] = {}
    for name, value in pairs:
        if table.setdefault(name, value) != value:
            raise InputError(f"{path} has two entries of {column} for {name!r}; keep one")
    if not table:
        raise InputError(f"{path} says no {column} of any shape; put one line per shape")
    return table


def read_scales(path: Path) -> dict[str, float]:
    """Longest sides by class. Raises InputError as `read_table` does, and for what is no number."""
    scales: dict[str, float] = {}
    for label, text in sorted(read_table(path, "scale").items()):
        try:
            scales[label] = float(text)
        except ValueError as error:
            raise InputError(f"{path}: the scale of {label!r} is {text!r}, which is no number") from error
    return scales


def _json_pairs(path: Path, text: str, column: str) -> Iterable[tuple[str, str]]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise InputError(f"{path} names something twice; keep one entry")
        return dict(pairs)

    try:
        document = json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); correct it") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} must be an object from shape names to {column}s")
    for name, value in document.items():
        if isinstance(value, dict):
            value = value.get(column)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            yield name, str(value)
        elif value is not None:
            raise InputError(
                f"{path}: the {column} of {name!r} is {type(value).__name__}, not a text or number"
            )


def _csv_pairs(path: Path, text: str, column: str) -> Iterable[tuple[str, str]]:
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=False) if row]
    if not rows or len(rows[0]) < 2:
        raise InputError(f"{path} must be a CSV with the head line 'shape,{column}'")
    head = [name.strip().lower() for name in rows[0]]
    place = head.index(column) if column in head else 1
    for number, row in enumerate(rows[1:], start=2):
        if len(row) <= place:
            raise InputError(f"{path}: row {number} has {len(row)} columns, not {place + 1} or more")
        if row[place].strip():
            yield row[0].strip(), row[place].strip()


def match_table(table: Mapping[str, str], meshes: Iterable[MeshFile]) -> tuple[dict[str, str], list[str]]:
    """What the table says by shape id, and the names that belong to no mesh.

    A mesh is known by its shape id, its path with or without suffix, its file name without suffix, and the
    folders on its path, the deepest first; the first of these that the table has counts.
    """
    found: dict[str, str] = {}
    known: set[str] = set()
    for mesh in meshes:
        path = PurePosixPath(mesh.relative)
        names = [
            mesh.shape_id,
            mesh.relative,
            mesh.relative.rpartition(".")[0],
            path.stem,
            *path.parts[-2::-1],
        ]
        known.update(names)
        hit = next((name for name in names if name in table), None)
        if hit is not None:
            found[mesh.shape_id] = table[hit]
    return found, sorted(table.keys() - known)
