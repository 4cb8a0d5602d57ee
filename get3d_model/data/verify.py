"""Checks everything there is to check of a data set, and lists all problems; `preflight` stops at the first.

Shape legend: N samples, H W image height and width, 4 RGBA channels
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from get3d_model.data.base import SampleSource, decode_png
from get3d_model.data.dataset import open_source, read_pixels
from get3d_model.data.manifest import MANIFEST_NAME, Manifest, ShardEntry, read_manifest
from get3d_model.data.published import ALL_CATEGORIES, is_published
from get3d_model.data.shard_source import load_index
from get3d_model.data.shards import Member, index_rows, member_stem, scan_tar
from get3d_model.errors import InputError
from get3d_model.files import sha256_file

_RANGES = (("rotation", 0.0, 360.0), ("elevation", -90.0, 90.0))


def open_any(path: Path) -> SampleSource:
    """As `open_source`; all categories of the published layout, each as a class."""
    path = Path(path)
    loose = is_published(path) and not (path / MANIFEST_NAME).is_file()
    return open_source(path, category=ALL_CATEGORIES if loose and _has_categories(path) else None)


def _has_categories(path: Path) -> bool:
    return next(path.glob("img/*/*.png"), None) is None


def verify_dataset(
    path: Path, on_images: Callable[[int], None] = lambda count: None, threads: int | None = None
) -> Iterator[str]:
    """Yields one line for every problem of the data set in `path`; none for a sound one.

    Every image decodes, is RGBA and of the right size; every camera is finite and in its range; every tar has the
    bytes, hash and shapes of the manifest, and the index says the same as the tars; every shape has all its views; no
    shape is in two splits or in none. Memory holds the sample table and an image per thread.
    on_images: called with the number of images that were looked at since the last call.
    Raises InputError when there is no data set to look into.
    """
    path = Path(path).absolute()
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, "get3d-verify") as pool:
        if (path / MANIFEST_NAME).is_file() and (manifest := read_manifest(path)).shards:
            yield from _verify_shards(path, manifest, on_images, pool)
            yield from verify_splits(path, manifest.splits, set(manifest.shapes))
            return
        source = open_any(path)
        table = source.table
        yield from _in_range(
            (source.describe(index), float(rotation), float(elevation))
            for index, (rotation, elevation) in enumerate(
                zip(table.rotation_deg_N, table.elevation_deg_N, strict=True)
            )
        )
        for first in range(0, len(table), 1000):
            indices = range(first, min(first + 1000, len(table)))
            yield from filter(None, pool.map(lambda index: _reason(read_pixels, source, index), indices))
            on_images(len(indices))
        yield from verify_splits(path, source.splits, set(table.shape_ids))


def verify_splits(path: Path, splits: dict[str, list[str]], shapes: set[str]) -> Iterator[str]:
    """One line for every shape that is in two splits, in none, or listed without being there."""
    owner: dict[str, str] = {}
    for name, ids in sorted(splits.items()):
        for shape_id in ids:
            if shape_id in owner:
                yield f"{path}: shape {shape_id!r} is in split {owner[shape_id]!r} and again in {name!r}"
            elif shape_id not in shapes:
                yield f"{path}: split {name!r} lists {shape_id!r}, which has no images"
            owner[shape_id] = name
    for shape_id in sorted(shapes - owner.keys()):
        yield f"{path}: shape {shape_id!r} is in no split"


def _verify_shards(
    root: Path, manifest: Manifest, on_images: Callable[[int], None], pool: ThreadPoolExecutor
) -> Iterator[str]:
    shape_ids = sorted(manifest.shapes)
    position = {shape_id: number for number, shape_id in enumerate(shape_ids)}
    index_N = None
    if manifest.index is None or (root / manifest.index.file).is_file():
        try:
            index_N = load_index(root, manifest, shape_ids) if manifest.index else None
        except InputError as error:
            yield str(error)
    else:
        yield f"{root / manifest.index.file} is missing; it is made anew at every start until it is restored"
    views: dict[str, list[int]] = {shape_id: [] for shape_id in shape_ids}
    for number, stored in enumerate(manifest.shards):
        members: list[Member] = []
        try:
            members = scan_tar(sound_file(root, stored))
        except InputError as error:
            yield str(error)
        for member in members:
            if member.shape_id in views:
                views[member.shape_id].append(member.view)
            else:
                yield f"{root / stored.file} holds shape {member.shape_id!r}, which the manifest does not list"
        known = [member for member in members if member.shape_id in position]
        if members and list(dict.fromkeys(member.shape_id for member in members)) != stored.shapes:
            yield f"{root / stored.file} does not hold the shapes that the manifest lists, or in another order"
        if members and len(members) != stored.samples:
            yield f"{root / stored.file} holds {len(members)} images, the manifest says {stored.samples}"
        if members and index_N is not None:
            rows_N = index_rows(number, known, position)
            if not np.array_equal(rows_N, index_N[index_N["shard"] == number]):
                yield f"{root / manifest.index.file} does not say where the images of {stored.file} lie"
        yield from _in_range(
            (
                f"{root / stored.file}:{member_stem(member.shape_id, member.view)}",
                member.rotation_deg,
                member.elevation_deg,
            )
            for member in members
        )
        if members:
            yield from _verify_images(root / stored.file, members, manifest.resolution, pool)
        on_images(stored.samples)
    listed = {stored.file for stored in manifest.shards}
    for path in sorted(root.glob("shards/*.tar")):
        if not path.name.startswith(".") and f"shards/{path.name}" not in listed:
            yield f"{path} is not in the manifest; remove it"
    # A data set from elsewhere may have fewer views of some shapes; a rendered one has not.
    exact = "views" in manifest.settings
    for shape_id, found in views.items():
        expected = range(manifest.views_per_shape if exact else len(found))
        if sorted(found) != list(expected) or not found:
            yield (
                f"{root}: shape {shape_id!r} has {len(set(found))} readable views of {manifest.views_per_shape};"
                " render it again"
            )


def sound_file(root: Path, stored: ShardEntry) -> Path:
    """Where a tar lies. Raises InputError when it is not what the manifest says, to the byte."""
    path = root / stored.file
    if not path.is_file():
        raise InputError(
            f"{path} is missing, but the manifest lists it; fetch it or render the data set again"
        )
    if path.stat().st_size != stored.bytes:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes, the manifest says {stored.bytes}; fetch it again"
        )
    if sha256_file(path) != stored.sha256:
        raise InputError(
            f"{path} does not have the sha256 in the manifest; fetch it or render the data set again"
        )
    return path


def _in_range(cameras: Iterator[tuple[str, float, float]]) -> Iterator[str]:
    for where, *angles in cameras:
        for (name, low, high), value in zip(_RANGES, angles, strict=True):
            if not low <= value <= high:  # NaN neither
                yield f"{where} has {name} {value}, which is not in [{low:g}, {high:g}] degrees; render it again"


def _verify_images(
    path: Path, members: list[Member], resolution: int, pool: ThreadPoolExecutor
) -> Iterator[str]:
    with open(path, "rb", buffering=0) as file:

        def check(member: Member) -> None:
            content = os.pread(file.fileno(), member.length, member.offset)
            where = f"{path}:{member_stem(member.shape_id, member.view)}.png"
            height, width = decode_png(content, lambda: where).shape[:2]
            if (height, width) != (resolution, resolution):
                raise InputError(
                    f"{where} is {width}x{height}, the data set is {resolution}x{resolution}; render it again"
                )

        yield from filter(None, pool.map(lambda member: _reason(check, member), members))


def _reason(check: Callable[..., object], *arguments: object) -> str | None:
    try:
        check(*arguments)
    except (InputError, OSError) as error:
        return str(error)
    return None
