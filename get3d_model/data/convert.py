"""From the published layout to shards and back, shape by shape; PNG bytes and cameras stay as they are.

Converting what `get3d render` wrote in one layout gives the bytes that it writes in the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from get3d_model.camera_settings import PUBLISHED_ORBIT
from get3d_model.data.base import SampleSource
from get3d_model.data.manifest import Manifest, SourceMesh, write_manifest
from get3d_model.data.parts import REJECTED_NAME
from get3d_model.data.published import (
    ALL_CATEGORIES,
    PublishedSource,
    check_folder_names,
    write_published_files,
)
from get3d_model.data.shard_source import ShardSource
from get3d_model.data.shards import (
    annotate_piece,
    assemble_shards,
    decode_piece,
    encode_piece_files,
    read_pieces,
    shapes_per_shard,
)
from get3d_model.data.splits import read_split_files
from get3d_model.data.verify import open_any, sound_file
from get3d_model.errors import InputError
from get3d_model.files import atomic_directory, write_bytes_atomic

TARGETS = ("shards", "published")
_REPORTS = (REJECTED_NAME, "notes.json")
_SPLIT_NAMES = ("train", "val", "test")


def convert_dataset(
    source_dir: Path,
    out: Path,
    to: str,
    *,
    category: str | None = None,
    shard_shapes: int | None = None,
    on_shape: Callable[[], None] = lambda: None,
) -> Manifest:
    """Writes the data set in `source_dir` to `out` in the layout `to` ("shards" or "published").

    category: folder below img/ of all shapes; None: one folder for every class. shard_shapes: shapes in a tar; None:
    as many as make a file of a good size. on_shape: called after every shape. One shape is in memory at a time.
    `out` appears when it is complete. Raises InputError when it holds something, or `source_dir` no data set or damage.
    """
    source_dir, out = Path(source_dir).absolute(), Path(out).absolute()
    if to not in TARGETS:
        raise InputError(f"--to must be one of {', '.join(TARGETS)}, not {to!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already; choose an empty folder")
    if out.is_relative_to(source_dir):
        raise InputError(f"{out} lies inside of {source_dir}; choose a folder elsewhere")
    source = open_any(source_dir)
    if source.layout == "mixture":
        raise InputError(f"{source_dir} is a mixture; convert its data sets one by one")
    with atomic_directory(out) as staged:
        if to == "shards":
            manifest = _to_shards(source, staged, shard_shapes, on_shape)
        else:
            manifest = _to_published(source, staged, category, on_shape)
        for name, ids in manifest.splits.items():
            if ids:
                _write_list(staged / "splits" / f"{name}.txt", ids)
        for name in _REPORTS:
            if (source_dir / name).is_file():
                shutil.copyfile(source_dir / name, staged / name)
        write_manifest(staged, manifest)
    return manifest


def _to_shards(
    source: SampleSource, out: Path, shard_shapes: int | None, on_shape: Callable[[], None]
) -> Manifest:
    known = source.manifest
    if isinstance(source, ShardSource):
        # Else damage would get a hash that vouches for it.
        for stored in known.shards:
            sound_file(source.path, stored)
    table, settings = source.table, dict(known.settings) if known else {}
    radius = settings.get("radius", PUBLISHED_ORBIT.radius)
    fov_deg = settings.get("fov_deg", round(PUBLISHED_ORBIT.field_of_view_deg, 6))
    number = {shape_id: i for i, shape_id in enumerate(table.shape_ids)}
    # The table is ordered by shape, so that the images of one are neighbours.
    first_S = np.searchsorted(table.shape_N, np.arange(len(table.shape_ids) + 1))
    hashes: dict[str, str] = {}

    def read_piece(shape_id: str) -> bytes:
        indices = range(first_S[number[shape_id]], first_S[number[shape_id] + 1])
        views = (
            (source.read_png(i), float(table.rotation_deg_N[i]), float(table.elevation_deg_N[i]))
            for i in indices
        )
        try:
            piece = encode_piece_files(shape_id, views, radius, fov_deg)
            if known:
                piece = annotate_piece(piece, known.shapes[shape_id].texts)
        except ValueError as error:
            raise InputError(f"{source.path}: {error}; rename its folders") from error
        hashes[shape_id] = sha256(piece).hexdigest()
        on_shape()
        return piece

    views = int(np.bincount(table.shape_N).max())
    count = shard_shapes or shapes_per_shard(views, source.resolution)
    entries, index = assemble_shards(out, table.shape_ids, read_piece, count)
    settings |= {"layout": "shards", "shapes_per_shard": count}
    if known:
        return replace(known, category=None, settings=settings, shards=entries, index=index, part=None)
    shapes = {
        shape_id: SourceMesh(f"{label}/{shape_id}", hashes[shape_id])
        for shape_id, label in zip(table.shape_ids, table.labels, strict=True)
    }
    return Manifest(
        resolution=source.resolution,
        views_per_shape=views,
        category=None,
        settings={**settings, "radius": radius, "fov_deg": fov_deg},
        renderer_version="converted",
        shapes=shapes,
        splits=_splits_beside(source),
        shards=entries,
        index=index,
    )


def _to_published(
    source: SampleSource, out: Path, category: str | None, on_shape: Callable[[], None]
) -> Manifest:
    if not isinstance(source, ShardSource):
        raise InputError(f"{source.path} is in the published layout already")
    known, folders = source.manifest, {}
    for shape_id, label in zip(source.table.shape_ids, source.table.labels, strict=True):
        folders[shape_id] = label if category is None else category
    check_folder_names(source.table.shape_ids, "keep it in shards")
    check_folder_names(sorted(set(folders.values())), "give all shapes one with --category")
    for stored in known.shards:
        for shape_id, piece in read_pieces(sound_file(source.path, stored)):
            views = decode_piece(piece)
            write_published_files(
                out,
                folders[shape_id],
                shape_id,
                (png for png, _ in views),
                [camera["rotation_deg"] for _, camera in views],
                [camera["elevation_deg"] for _, camera in views],
            )
            on_shape()
    for name, ids in known.splits.items():
        _write_list(out / f"{name}.txt", ids)
    names = sorted(set(folders.values()))
    return replace(
        known,
        category=names[0] if len(names) == 1 else ALL_CATEGORIES,
        settings={**known.settings, "layout": "published"},
        shards=[],
        index=None,
        part=None,
    )


def _write_list(path: Path, ids: list[str]) -> None:
    write_bytes_atomic(path, "".join(f"{shape_id}\n" for shape_id in ids).encode())


def _splits_beside(source: PublishedSource) -> dict[str, list[str]]:
    """The lists in the data set's folder; a shape that none of them has goes to train."""
    files = {name: source.path / f"{name}.txt" for name in _SPLIT_NAMES}
    files = {name: path for name, path in files.items() if path.is_file()}
    if not files:
        return source.splits
    shapes = set(source.table.shape_ids)
    splits = {name: sorted(shapes & set(ids)) for name, ids in read_split_files(files).items()}
    listed = {shape_id for ids in splits.values() for shape_id in ids}
    return {**splits, "train": sorted({*splits.get("train", ()), *(shapes - listed)})}
