"""A data set rendered in parts: n jobs that know nothing of each other, and a merge that touches no image.

    OUT/part-00003-of-00016/     what job 3 of 16 has made: a data set in the shard format of its own
    OUT/manifest.json            of the whole, made by `merge_parts`; its shards lie in the parts' folders
    OUT/index.npy                the parts' indices, one after the other
    OUT/rejected.json            the parts' reports together; so is OUT/notes.json, where a part has one
    OUT/splits/train.txt ...     the splits of the whole

Which part a shape belongs to is a pure function of its id and the number of parts. Parts count from 0, as
Kubernetes' JOB_COMPLETION_INDEX, a rank and the shards of TFRecord (`name-00000-of-00016`) do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from get3d_model.data.manifest import MANIFEST_NAME, Manifest, Part, read_manifest, write_manifest
from get3d_model.data.shard_source import check_shards, load_index
from get3d_model.data.shards import INDEX_DTYPE, write_index
from get3d_model.data.splits import hash_split, split_groups, write_split_files
from get3d_model.errors import InputError
from get3d_model.files import remove_temporaries, write_json_atomic

REJECTED_NAME = "rejected.json"
NOTES_NAME = "notes.json"
SPLITS_FOLDER = "splits"
_PART_NAME = re.compile(r"part-\d{5,}-of-\d{5,}")
_NAMES_IN_MESSAGE = 8


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`; 0/1 is the whole."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 0 <= self.index < self.count):
            raise InputError(
                f"shard {self.index}/{self.count} does not exist; shards count from 0:"
                f" 0/{max(1, self.count)} to {max(1, self.count) - 1}/{max(1, self.count)}"
            )

    @staticmethod
    def parse(text: str) -> Shard:
        """From `i/n`. Raises InputError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match:
            raise InputError(f"--shard {text!r} is not of the form i/n, such as 0/16 for the first of 16")
        return Shard(int(match[1]), int(match[2]))

    @property
    def whole(self) -> bool:
        return self.count == 1

    @property
    def folder(self) -> str:
        """Name of the part's folder."""
        return f"part-{self.index:05d}-of-{self.count:05d}"

    def owns(self, shape_id: str) -> bool:
        """Whether the shape belongs to this part.

        By a hash of its id, so that shapes that come or go move no other shape to another part. With k shapes
        on average a part has k ± sqrt(k).
        """
        digest = hashlib.sha256(f"shard/{shape_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index


WHOLE = Shard()


def find_parts(root: Path) -> list[Path]:
    """The part folders in `root`, sorted, finished or not."""
    return sorted(path for path in Path(root).glob("part-*") if _PART_NAME.fullmatch(path.name))


def merge_parts(root: Path, parts: Sequence[Path] | None = None) -> Manifest:
    """Makes the parts in `root` one data set and returns its manifest, which is written last.

    parts: the part folders; all of `root` when None. Writes index.npy, rejected.json, notes.json, splits/ and
    manifest.json; reads the same of every part (no splits), and the sizes of its tars.
    Raises InputError when a part is missing, unfinished or twice there, lies outside of `root`, or when
    parts differ in their settings or in the list of meshes they were made from.
    """
    root = Path(root).absolute()
    folders = _folders(root, parts)
    with _locked(root):
        for folder in (root, root / SPLITS_FOLDER):
            remove_temporaries(folder)  # of a merge that was killed
        return _merge(root, folders)


def _merge(root: Path, folders: list[str]) -> Manifest:
    manifests = {folder: _read_part(root / folder) for folder in folders}
    ordered = _check_complete(root, manifests)
    first = manifests[ordered[0]]
    for folder in ordered[1:]:
        _check_agreement(ordered[0], first, folder, manifests[folder])
    owner: dict[str, str] = {}
    for folder in ordered:
        for shape_id in (*manifests[folder].shapes, *manifests[folder].rejected):
            if shape_id in owner:
                raise InputError(
                    f"shape {shape_id!r} is in both {owner[shape_id]} and {folder}; render both again"
                )
            owner[shape_id] = folder
    shapes = {key: mesh for folder in ordered for key, mesh in manifests[folder].shapes.items()}
    reports = _read_all(root, ordered, REJECTED_NAME)
    if not shapes:
        said = [f"{report['file']}: {report['reason']}" for report in reports.values()]
        why = f"; of {len(said)} meshes that were set aside the first is {said[0]}" if said else ""
        raise InputError(f"the parts in {root} hold no shape at all{why}")
    notes = _read_all(root, ordered, NOTES_NAME)
    merged = replace(
        first,
        part=None,
        shapes=shapes,
        rejected={key: mesh for folder in ordered for key, mesh in manifests[folder].rejected.items()},
        splits=_merge_splits(first.part, shapes, [manifests[folder] for folder in ordered]),
        shards=[
            replace(stored, file=f"{folder}/{stored.file}")
            for folder in ordered
            for stored in manifests[folder].shards
        ],
        index=None,
    )
    index_N = _merge_index(root, sorted(shapes), {folder: manifests[folder] for folder in ordered})
    # A manifest beside another one's index must never be seen.
    (root / MANIFEST_NAME).unlink(missing_ok=True)
    merged = replace(merged, index=write_index(root, index_N))
    write_json_atomic(root / REJECTED_NAME, reports)
    if notes:
        write_json_atomic(root / NOTES_NAME, notes)
    else:
        (root / NOTES_NAME).unlink(missing_ok=True)
    write_split_files(root / SPLITS_FOLDER, merged.splits)
    write_manifest(root, merged)
    return merged


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Waits until no other merge works in `root`."""
    handle = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _folders(root: Path, parts: Sequence[Path] | None) -> list[str]:
    """The parts' folders, relative to the data set, with forward slashes."""
    if not root.is_dir():
        raise InputError(f"the data set folder {root} does not exist; check the path")
    if (root / "shards").exists():
        raise InputError(
            f"{root / 'shards'} was rendered without --shard; merge parts in a folder of their own"
        )
    if parts is None:
        found = [path.name for path in find_parts(root)]
        if not found:
            raise InputError(
                f"{root} holds no part-...-of-... folder; run `get3d render MESHES {root} --shard i/n`"
            )
        return found
    result = []
    for part in parts:
        path = Path(part).absolute()
        if not path.is_relative_to(root) or path == root:
            raise InputError(
                f"the part {part} is not below {root}, so a manifest there cannot name it; move it there"
            )
        result.append(path.relative_to(root).as_posix())
    return result


def _read_part(folder: Path) -> Manifest:
    if not (folder / MANIFEST_NAME).is_file():
        raise InputError(f"the part {folder} is not finished; run its `get3d render --shard` again")
    manifest = read_manifest(folder)
    if manifest.part is None:
        raise InputError(f"{folder} is a data set of its own and no part of one; leave it out")
    if manifest.shards:
        check_shards(folder, manifest)
    return manifest


def _check_complete(root: Path, manifests: dict[str, Manifest]) -> list[str]:
    """The folders in the order of the parts."""
    counts = sorted({manifest.part.count for manifest in manifests.values()})
    if len(counts) > 1:
        raise InputError(
            f"{root} holds parts of {' and of '.join(map(str, counts))}; remove the left-over ones or name"
            " those that belong together with --parts"
        )
    owner: dict[int, str] = {}
    for folder, manifest in manifests.items():
        if manifest.part.index in owner:
            raise InputError(
                f"{owner[manifest.part.index]} and {folder} are both part {manifest.part.index}; leave one out"
            )
        owner[manifest.part.index] = folder
    missing = [f"{index}/{counts[0]}" for index in range(counts[0]) if index not in owner]
    if missing:
        more = " ..." if len(missing) > _NAMES_IN_MESSAGE else ""
        raise InputError(
            f"{root} lacks {len(missing)} of {counts[0]} parts: run `get3d render` with --shard"
            f" {' '.join(missing[:_NAMES_IN_MESSAGE])}{more}"
        )
    return [owner[index] for index in range(counts[0])]


def _check_agreement(name: str, first: Manifest, other_name: str, other: Manifest) -> None:
    def of(manifest: Manifest) -> dict[str, Any]:
        return {
            **manifest.settings,
            "resolution": manifest.resolution,
            "views": manifest.views_per_shape,
            "category": manifest.category,
            "renderer_version": manifest.renderer_version,
            "split rule": manifest.part.split_rule,
        }

    a, b = of(first), of(other)
    differ = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    if differ:
        key = differ[0]
        raise InputError(
            f"{name} and {other_name} differ in {', '.join(differ)} ({key}: {a.get(key)} and {b.get(key)});"
            " render all parts with the same options"
        )
    if first.part.inputs_sha256 != other.part.inputs_sha256:
        raise InputError(
            f"{name} and {other_name} were made from different lists of meshes or split files;"
            " run all parts again on the same meshes: what is unchanged is not rendered again"
        )


def _merge_splits(part: Part, shapes: dict[str, Any], manifests: list[Manifest]) -> dict[str, list[str]]:
    if part.split_rule is not None:
        sources = {
            **shapes,
            **{key: mesh for manifest in manifests for key, mesh in manifest.rejected.items()},
        }
        groups = split_groups({shape_id: mesh.marks for shape_id, mesh in sources.items()})
        return hash_split(shapes, **part.split_rule, groups=groups)
    names = sorted({name for manifest in manifests for name in manifest.splits})
    return {
        name: sorted(shape_id for manifest in manifests for shape_id in manifest.splits.get(name, ()))
        for name in names
    }


def _merge_index(root: Path, shape_ids: list[str], manifests: dict[str, Manifest]) -> np.ndarray:
    position = {shape_id: number for number, shape_id in enumerate(shape_ids)}
    rows, shards = [np.empty(0, INDEX_DTYPE)], 0
    for folder, manifest in manifests.items():
        if not manifest.shards:
            continue
        own = sorted(manifest.shapes)
        index_N = load_index(root / folder, manifest, own).copy()
        index_N["shape"] = np.array([position[shape_id] for shape_id in own])[index_N["shape"]]
        index_N["shard"] += shards
        shards += len(manifest.shards)
        rows.append(index_N)
    return np.concatenate(rows)


def _read_all(root: Path, folders: list[str], name: str) -> dict[str, Any]:
    """The entries of a file of every part, by shape id."""
    return {key: entry for folder in folders for key, entry in _read_json(root / folder / name).items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); render this part again") from error
