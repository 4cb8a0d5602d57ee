"""What every data set reader and writer shares: samples, the sample table, PNG decoding, camera angles.

Shape legend: B batch, N samples of a data set, H W image height and width, 4 RGBA channels
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from get3d_model.data.manifest import ONE_CLASS as ONE_CLASS
from get3d_model.data.manifest import Manifest
from get3d_model.errors import InputError


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    rgba_4HW: uint8, straight alpha. angles_2: float32 (rotation, polar angle from +y) in radians.
    """

    rgba_4HW: Tensor
    angles_2: Tensor
    shape_id: str
    view: int


@dataclass(frozen=True)
class SampleBatch:
    """Samples stacked. rgba_B4HW: uint8, straight alpha. angles_B2: float32 radians, as in `Sample`."""

    rgba_B4HW: Tensor
    angles_B2: Tensor
    shape_ids: tuple[str, ...]
    views: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.shape_ids)

    def pin_memory(self) -> SampleBatch:
        """Called by a DataLoader with `pin_memory=True`."""
        return SampleBatch(
            self.rgba_B4HW.pin_memory(), self.angles_B2.pin_memory(), self.shape_ids, self.views
        )


@dataclass(frozen=True)
class View:
    """One rendered picture to be written.

    rgba_HW4: uint8, straight alpha, row 0 at the top.
    rotation_deg: in [0, 360). elevation_deg: above the horizon.
    """

    rgba_HW4: np.ndarray
    rotation_deg: float
    elevation_deg: float


@dataclass(frozen=True)
class SampleTable:
    """The images of a data set without their pixels, ordered by shape, then view.

    shape_ids: sorted. shape_N: int32 index into `shape_ids`. view_N: int32.
    rotation_deg_N, elevation_deg_N: float64 degrees; elevation is measured up from the horizon.
    labels: the class of every shape, by name, in the order of `shape_ids`.
    """

    shape_ids: tuple[str, ...]
    shape_N: np.ndarray
    view_N: np.ndarray
    rotation_deg_N: np.ndarray
    elevation_deg_N: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.shape_N)


class SampleSource(Protocol):
    """A data set on disk: the shard format or the published layout.

    resolution: image height and width in pixels (images are square). manifest: None where images alone are there.
    splits: shape ids of every split. groups: the group of every shape that has near-duplicates, as far as known.
    """

    path: Path
    layout: str
    table: SampleTable
    resolution: int
    manifest: Manifest | None
    splits: dict[str, list[str]]
    groups: dict[str, str]

    def stored_resolution(self, index: int) -> int:
        """Pixels of image `index` as it is stored: `resolution` or a multiple of it."""
        ...

    def read_png(self, index: int) -> bytes:
        """The encoded image `index` of the table. Raises InputError when the file cannot be read."""
        ...

    def describe(self, index: int) -> str:
        """Where image `index` is stored, for messages."""
        ...


def polar_angles_rad(rotation_deg: np.ndarray, elevation_deg: np.ndarray) -> np.ndarray:
    """(..., 2) float32 (rotation, polar angle from +y) in radians, the published convention.

    `rotation * pi / 180` and `(90 - elevation) * pi / 180`, computed in float64.
    """
    rotation_deg, elevation_deg = np.asarray(rotation_deg, np.float64), np.asarray(elevation_deg, np.float64)
    return np.stack([np.deg2rad(rotation_deg), np.deg2rad(90.0 - elevation_deg)], axis=-1).astype(np.float32)


def decode_png(content: bytes, where: Callable[[], str]) -> np.ndarray:
    """uint8 (H, W, 4) pixels. `where` names the image in the InputError that a bad one raises."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            mode = picture.mode
            pixels = np.asarray(picture)
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError, zlib.error and others for damaged files.
        raise InputError(
            f"{where()}: the image cannot be decoded ({error}); render the data set again"
        ) from error
    if mode != "RGBA":
        raise InputError(
            f"{where()}: the image is {mode}, not RGBA; render again with a transparent background,"
            " because training needs the silhouette in the alpha channel"
        )
    return pixels


def shrink_rgba(rgba_HW4: np.ndarray, factor: int) -> np.ndarray:
    """Every block of `factor` x `factor` pixels averaged; colours count by their alpha, so no dark fringe appears.

    In encoded values, as training blends the background: shrinking before or after that gives the same.
    """
    if factor == 1:
        return rgba_HW4
    picture = Image.fromarray(rgba_HW4).convert("RGBa").reduce(factor).convert("RGBA")
    return np.asarray(picture)


def table_from_rows(
    rows: Sequence[tuple[str, int, float, float]], labels: Mapping[str, str]
) -> tuple[SampleTable, np.ndarray]:
    """A table from (shape id, view, rotation_deg, elevation_deg) rows, and the order that sorts the rows.

    labels: the class of every shape id.
    """
    order = np.array(sorted(range(len(rows)), key=lambda i: rows[i][:2]), dtype=np.int64)
    shape_ids = tuple(sorted({row[0] for row in rows}))
    position = {shape_id: i for i, shape_id in enumerate(shape_ids)}
    table = SampleTable(
        shape_ids,
        np.array([position[rows[i][0]] for i in order], np.int32),
        np.array([rows[i][1] for i in order], np.int32),
        np.array([rows[i][2] for i in order], np.float64),
        np.array([rows[i][3] for i in order], np.float64),
        tuple(labels[shape_id] for shape_id in shape_ids),
    )
    return table, order


def stack_samples(samples: Sequence[Sample]) -> SampleBatch:
    """Stacks samples: the `collate_fn` of a DataLoader over a `RenderedDataset`."""
    return SampleBatch(
        torch.stack([sample.rgba_4HW for sample in samples]),
        torch.stack([sample.angles_2 for sample in samples]),
        tuple(sample.shape_id for sample in samples),
        tuple(sample.view for sample in samples),
    )
