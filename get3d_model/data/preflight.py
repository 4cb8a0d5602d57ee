"""Checks a data set before training starts, so that a bad one costs seconds and not a day.

Shape legend: N samples, H W image height and width, 4 RGBA channels
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from get3d_model.camera_settings import CameraConfig
from get3d_model.data.base import SampleSource
from get3d_model.data.dataset import images_of_split, open_source, read_pixels, select_split
from get3d_model.data.mixture import MixtureSource
from get3d_model.data.shard_source import ShardSource
from get3d_model.data.shards import scan_tar
from get3d_model.errors import InputError
from get3d_model.files import sha256_file

# Up to this many images all of them are decoded; of a larger data set a sample.
DECODE_ALL_UP_TO = 5000
DECODE_SAMPLE = 2000
_NAMES_IN_MESSAGE = 5
# Cameras this far outside of the configured range, in degrees, count as outside; more than this share is told.
_CAMERA_TOLERANCE_DEG = 0.5
_CAMERAS_OUTSIDE = 0.01


@dataclass(frozen=True)
class DatasetSummary:
    """What `preflight` found.

    split_shapes, split_images: counts by split. decoded: how many images were decoded and looked at.
    elevation_range_deg: of all cameras, above the horizon. mean_coverage: mean share of covered pixels.
    warnings: oddities that do not stop training, one line each.
    """

    path: Path
    layout: str
    resolution: int
    shapes: int
    images: int
    split_shapes: dict[str, int]
    split_images: dict[str, int]
    decoded: int
    hashed: bool
    elevation_range_deg: tuple[float, float]
    mean_coverage: float
    warnings: tuple[str, ...]

    def describe(self) -> str:
        """A few lines for a log."""
        splits = ", ".join(
            f"{name}: {self.split_shapes[name]} shapes, {self.split_images[name]} images"
            for name in sorted(self.split_shapes)
        )
        decoded = "all images" if self.decoded == self.images else f"a sample of {self.decoded} images"
        low, high = self.elevation_range_deg
        lines = [
            f"{self.path}: {self.layout} layout, {self.shapes} shapes,"
            f" {self.images} images of {self.resolution} px",
            f"splits: {splits}",
            f"decoded {decoded}{' and compared all shard hashes' if self.hashed else ''};"
            f" elevation {low:.1f} to {high:.1f} degrees, {self.mean_coverage:.0%} of the pixels covered",
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def preflight(
    data_dir: Path | SampleSource,
    *,
    resolution: int,
    cameras: CameraConfig | None = None,
    splits: Iterable[str] = ("train",),
    split_files: Mapping[str, Path] | None = None,
    category: str | None = None,
    full: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> DatasetSummary:
    """Checks the data set in `data_dir` for training at `resolution` pixels.

    cameras: those that generated shapes will be seen by; None: not compared with the data set's.
    splits: those that must exist and hold images. split_files, category: as for `open_source`.
    full: decode every image and compare the hash of every shard, however large the data set is.
    seed: of the choice of images when not all are decoded.
    Raises InputError for the first thing that is wrong, naming the path and the fix.
    """
    source = open_source(data_dir, split_files, category)
    if source.resolution % resolution:
        raise InputError(
            f"{source.path} holds images of {source.resolution} pixels, the configuration asks for"
            f" {resolution}; set the resolution to {source.resolution} or render again with"
            f" `--resolution {resolution}`"
        )
    warnings = _check_splits(source, list(splits))
    if source.resolution != resolution:
        warnings.append(
            f"images of {source.resolution} pixels are shrunk to {resolution} while they are read"
        )
    _check_cameras(source)
    for part in source.sources if isinstance(source, MixtureSource) else [source]:
        if cameras is not None:
            warnings += _compare_cameras(part, cameras)
        if full and isinstance(part, ShardSource):
            _check_hashes(part)
    chosen = _choose(len(source.table), full, seed)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, "get3d-preflight") as pool:
        coverage = np.array(list(pool.map(lambda index: _check_image(source, int(index)), chosen)))
    warnings += _check_coverage(source, chosen, coverage)
    table = source.table
    split_index = {name: images_of_split(source, name) for name in source.splits}
    return DatasetSummary(
        path=source.path,
        layout=source.layout,
        resolution=source.resolution,
        shapes=len(table.shape_ids),
        images=len(table),
        split_shapes={name: len(np.unique(table.shape_N[index])) for name, index in split_index.items()},
        split_images={name: len(index) for name, index in split_index.items()},
        decoded=len(chosen),
        hashed=full and isinstance(source, ShardSource),
        elevation_range_deg=(float(table.elevation_deg_N.min()), float(table.elevation_deg_N.max())),
        mean_coverage=float(coverage.mean()),
        warnings=tuple(warnings),
    )


def _check_splits(source: SampleSource, required: list[str]) -> list[str]:
    for split in required:
        select_split(source, split)
    warnings, known = [], set(source.table.shape_ids)
    listed: set[str] = set()
    for name, ids in sorted(source.splits.items()):
        overlap = listed & set(ids)
        if overlap:
            raise InputError(
                f"{source.path}: shape {min(overlap)!r} is in two splits; keep it in one,"
                " or the validation figures are measured on training data"
            )
        listed |= set(ids)
        absent = [shape_id for shape_id in ids if shape_id not in known]
        if absent:
            warnings.append(
                f"{len(absent)} of {len(ids)} shapes of split {name!r} have no images{_some(absent)}"
            )
    unused = sorted(known - listed)
    if unused:
        warnings.append(f"{len(unused)} shapes are in no split and will not be used{_some(unused)}")
    return warnings


def _check_cameras(source: SampleSource) -> None:
    table = source.table
    for name, values_N, low, high in (
        ("rotation", table.rotation_deg_N, 0.0, 360.0),
        ("elevation", table.elevation_deg_N, -90.0, 90.0),
    ):
        bad = np.flatnonzero(~(np.isfinite(values_N) & (values_N >= low) & (values_N <= high)))
        if len(bad):
            raise InputError(
                f"{source.describe(int(bad[0]))} has {name} {values_N[bad[0]]}, which is not in"
                f" [{low:g}, {high:g}] degrees ({len(bad)} such cameras); render these shapes again"
            )
    # Eight views around an object reach far in degrees, and never beyond a full turn in radians.
    highest = float(table.rotation_deg_N.max())
    if len(table) >= 8 and 1.0 < highest <= 2 * np.pi + 1e-3 and table.elevation_deg_N.max() <= np.pi / 2:
        raise InputError(
            f"{source.path}: no rotation is above {highest:.2f}, so the cameras seem to be in radians;"
            " write them in degrees"
        )


def _compare_cameras(source: SampleSource, cameras: CameraConfig) -> list[str]:
    """Generated shapes must be seen as the real ones are, or the discriminator tells them by the camera."""
    orbit = cameras.orbit
    stored = source.manifest.settings if source.manifest else {}
    for name, key, value in (
        ("radius", "radius", orbit.radius),
        ("field_of_view_deg", "fov_deg", orbit.field_of_view_deg),
    ):
        if key in stored and abs(stored[key] - value) > 1e-3:
            raise InputError(
                f"{source.path} was rendered with a camera {name} of {stored[key]:g}, the configuration has"
                f" {value:g}; set cameras.{name} to {stored[key]:g} or render again"
            )
    if cameras.distribution == "dataset":
        return []
    table, warnings = source.table, []
    for name, values_N, (low, high) in (
        ("rotation", table.rotation_deg_N, orbit.rotation_deg),
        ("elevation", table.elevation_deg_N, orbit.elevation_deg),
    ):
        outside = (values_N < low - _CAMERA_TOLERANCE_DEG) | (values_N > high + _CAMERA_TOLERANCE_DEG)
        if outside.mean() > _CAMERAS_OUTSIDE:
            warnings.append(
                f"{outside.mean():.0%} of the cameras have their {name} outside of {low:g} to {high:g} degrees, where"
                f" generated shapes are seen from; set cameras.{name}_deg, or cameras.distribution: dataset"
            )
    return warnings


def _check_hashes(source: ShardSource) -> None:
    for stored in source.manifest.shards:
        path = source.path / stored.file
        if sha256_file(path) != stored.sha256:
            raise InputError(
                f"{path} does not have the sha256 in the manifest: its content was changed or damaged;"
                " fetch it or render the data set again"
            )
        shapes = list(dict.fromkeys(member.shape_id for member in scan_tar(path)))
        if shapes != stored.shapes:
            raise InputError(f"{path} does not hold the shapes the manifest lists; render the data set again")


def _choose(count: int, full: bool, seed: int) -> np.ndarray:
    if full or count <= DECODE_ALL_UP_TO:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, DECODE_SAMPLE, replace=False))


def _check_image(source: SampleSource, index: int) -> float:
    """Share of pixels with alpha above 0: 0 for an empty picture. Raises InputError."""
    return float((read_pixels(source, index)[..., 3] > 0).mean())


def _check_coverage(source: SampleSource, chosen: np.ndarray, coverage: np.ndarray) -> list[str]:
    warnings = []
    for kind, odd, cause in (
        ("empty (alpha is 0 everywhere)", coverage == 0.0, "the object is not in front of the camera"),
        ("full (alpha is above 0 everywhere)", coverage == 1.0, "the background was not left transparent"),
    ):
        names = [source.describe(int(index)) for index in chosen[odd]]
        if len(names) > len(chosen) / 2:
            raise InputError(
                f"{source.path}: {len(names)} of {len(chosen)} images are {kind}, such as {names[0]}:"
                f" {cause}; render the data set again"
            )
        if names:
            warnings.append(f"{len(names)} of {len(chosen)} images are {kind}{_some(names)}")
    return warnings


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _NAMES_IN_MESSAGE else ""
    return f": {', '.join(names[:_NAMES_IN_MESSAGE])}{more}"
