"""The data set as training sees it: open a folder, read samples at random, make the discriminator's input.

Shape legend: B batch, N samples, H W image height and width, 4 RGBA channels
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from get3d_model.data.base import (
    Sample,
    SampleBatch,
    SampleSource,
    decode_png,
    polar_angles_rad,
    shrink_rgba,
    stack_samples,
)
from get3d_model.data.manifest import MANIFEST_NAME, read_manifest
from get3d_model.data.mixture import MixtureSource, is_mixture, sample_weights
from get3d_model.data.parts import find_parts
from get3d_model.data.published import ALL_CATEGORIES, PublishedSource, is_published
from get3d_model.data.sampler import InfiniteSampler
from get3d_model.data.shard_source import ShardSource
from get3d_model.data.splits import read_split_files
from get3d_model.errors import InputError

__all__ = [
    "InfiniteSampler",
    "RenderedDataset",
    "Sample",
    "SampleBatch",
    "open_source",
    "stack_samples",
    "to_training_tensor",
]


# Below, handing an image to another thread takes longer than decoding it (`tests/benchmarks/dataset.py`).
THREADS_FROM_RESOLUTION = 128


def open_source(
    path: Path | SampleSource, split_files: Mapping[str, Path] | None = None, category: str | None = None
) -> SampleSource:
    """Opens a data set folder of either layout; one that is open already stays as it is.

    A file is a mixture of data sets, see `mixture.py`.

    split_files: one file of shape ids per split; they replace the splits of a manifest.
    category: the folder below img/ to be used, needed only when there are several; `ALL_CATEGORIES` for all.
    Raises InputError for a folder that is missing, of no known layout, or inconsistent.
    """
    if not isinstance(path, (str, Path)):
        if split_files:
            path.splits = read_split_files(split_files)
        return path
    if is_mixture(path):
        if split_files or category not in (None, ALL_CATEGORIES):
            raise InputError(f"{path} is a mixture, whose data sets have splits and categories of their own")
        return MixtureSource(Path(path).absolute(), open_source)
    path = Path(path).absolute()  # so that lazily opened files are found after a change of folder
    if not path.is_dir():
        raise InputError(
            f"the data set folder {path} does not exist; check the path or run `get3d render` first"
        )
    if (path / MANIFEST_NAME).is_file():
        manifest = read_manifest(path)
        if manifest.shards:
            source: SampleSource = ShardSource(path)
        else:
            source = PublishedSource(path, category=category or manifest.category)
            source.describe_by(manifest)
        if split_files:
            source.splits = read_split_files(split_files)
        return source
    if find_parts(path):
        raise InputError(f"{path} holds parts that are not one data set yet; run `get3d data merge {path}`")
    if (path / "shards").is_dir() or (path / ".partial").is_dir():
        raise InputError(
            f"{path} has no {MANIFEST_NAME}: rendering did not finish; run the same `get3d render` again"
        )
    if is_published(path):
        return PublishedSource(path, split_files, category)
    hint = f"point at {path.parent}" if path.name == "img" else "point at the folder that holds one of them"
    raise InputError(f"{path} holds neither {MANIFEST_NAME} with shards/ nor img/ with camera/; {hint}")


def select_split(source: SampleSource, split: str | None) -> np.ndarray:
    """Indices into the source's table of the images in `split` (all for None).

    Shapes that a split lists and the data set lacks are left out; `preflight` reports them.
    Raises InputError when the split is unknown or has no image.
    """
    if split is None:
        return np.arange(len(source.table))
    if split not in source.splits:
        known = ", ".join(sorted(source.splits))
        raise InputError(
            f"{source.path} has no split {split!r} (it has: {known}); give a split file for {split!r}"
        )
    index_N = images_of_split(source, split)
    if not len(index_N):
        raise InputError(
            f"the split {split!r} of {source.path} has no images: none of the {len(source.splits[split])}"
            " shapes it lists is in the data set; check the split file"
        )
    return index_N


def images_of_split(source: SampleSource, split: str) -> np.ndarray:
    """Indices into the source's table of the images of a known split; may be empty."""
    wanted = set(source.splits[split])
    chosen = np.array([shape_id in wanted for shape_id in source.table.shape_ids], bool)
    return np.flatnonzero(chosen[source.table.shape_N])


def read_pixels(source: SampleSource, index: int, resolution: int | None = None) -> np.ndarray:
    """Decoded uint8 (H, W, 4) pixels of an image of the table, at the source's resolution unless another is given.

    resolution: the stored one divides by it.
    Raises InputError naming the image when it cannot be read or decoded, is not RGBA, or has another size.
    """
    rgba_HW4 = decode_png(source.read_png(index), lambda: source.describe(index))
    height, width = rgba_HW4.shape[:2]
    stored = source.stored_resolution(index)
    if (height, width) != (stored, stored):
        raise InputError(
            f"{source.describe(index)} is {width}x{height}, the data set is {stored}x{stored}; render it again"
        )
    return shrink_rgba(rgba_HW4, stored // (resolution or source.resolution))


class RenderedDataset(torch.utils.data.Dataset):
    """A map-style data set of rendered images, in the shard format or the published layout.

    Usable from threads and from DataLoader workers (forked or spawned). Use `stack_samples` as `collate_fn`.
    """

    def __init__(
        self,
        path: Path | SampleSource,
        split: str | None = "train",
        *,
        split_files: Mapping[str, Path] | None = None,
        category: str | None = None,
        cache_bytes: int = 0,
        threads: int | None = None,
        resolution: int | None = None,
        mirror: bool = False,
    ) -> None:
        """Opens the folder; see `open_source` and `select_split` for the arguments and errors.

        cache_bytes: decoded images are kept in memory up to this many bytes, in every process that reads.
            What is in stays in: with every sample equally likely, replacing would gain nothing.
        threads: decoding threads of `read_batch`; the number of processors when None.
        resolution: images are shrunk to it; that of the data set when None, which must be a multiple of it.
        mirror: every image is there twice, the second time (samples from half of `len` on) as a mirror would show
            the object: the picture turned left to right, the rotation counted the other way round.
        """
        self.source = open_source(path, split_files, category)
        self.split = split
        self.index_N = select_split(self.source, split)
        table = self.source.table
        rotation_deg_N = table.rotation_deg_N[self.index_N]
        if mirror:
            rotation_deg_N = np.concatenate([rotation_deg_N, (360.0 - rotation_deg_N) % 360.0])
            self.index_N = np.concatenate([self.index_N, self.index_N])
        self._mirrored_from = len(self.index_N) // 2 if mirror else len(self.index_N)
        self._angles_N2 = polar_angles_rad(rotation_deg_N, table.elevation_deg_N[self.index_N])
        self._resolution = resolution or self.source.resolution
        if self.source.resolution % self._resolution:
            raise InputError(
                f"{self.source.path} holds images of {self.source.resolution} pixels, no multiple of"
                f" {self._resolution}; render it again or change the resolution"
            )
        self._cache: dict[int, np.ndarray] = {}
        self._cache_left = cache_bytes
        self._threads = threads or os.cpu_count() or 1
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    @property
    def resolution(self) -> int:
        """Image height and width in pixels, as samples have them."""
        return self._resolution

    @property
    def class_names(self) -> list[str]:
        """The classes of the whole data set, not only of this split, sorted: a class's number is its place here."""
        return sorted(set(self.source.table.labels))

    @property
    def classes_N(self) -> np.ndarray:
        """int64 class of every sample, without reading an image."""
        table, number = self.source.table, {name: i for i, name in enumerate(self.class_names)}
        return np.array([number[label] for label in table.labels], np.int64)[table.shape_N[self.index_N]]

    def weights_N(self, balance_groups: bool) -> np.ndarray | None:
        """For `InfiniteSampler`: see `sample_weights`."""
        return sample_weights(self.source, self.index_N, balance_groups)

    @property
    def shape_ids(self) -> list[str]:
        """The shapes of this split, sorted."""
        table = self.source.table
        return [table.shape_ids[i] for i in np.unique(table.shape_N[self.index_N])]

    @property
    def angles_N2(self) -> np.ndarray:
        """float32 (rotation, polar angle) in radians of every sample, without reading an image."""
        return self._angles_N2

    def __len__(self) -> int:
        return len(self.index_N)

    def __getitem__(self, item: int) -> Sample:
        """Raises InputError as `read_pixels`."""
        if not -len(self) <= item < len(self):
            raise IndexError(f"sample {item} of {len(self)}")
        item = int(item) % len(self)
        index, table = int(self.index_N[item]), self.source.table
        rgba_4HW = self._pixels_4HW(index)
        if item >= self._mirrored_from:
            rgba_4HW = rgba_4HW[:, :, ::-1]
        return Sample(
            # A copy, so that a caller who writes into a sample does not write into the cache.
            torch.from_numpy(rgba_4HW.copy()),
            torch.from_numpy(self._angles_N2[item].copy()),
            table.shape_ids[int(table.shape_N[index])],
            int(table.view_N[index]),
        )

    def read_batch(self, items: Sequence[int] | np.ndarray) -> SampleBatch:
        """Samples stacked; images that are worth it are read and decoded in parallel threads."""
        items = [int(item) for item in items]
        cached = all(int(self.index_N[item]) in self._cache for item in items)
        if len(items) == 1 or self._threads == 1 or cached or self.resolution < THREADS_FROM_RESOLUTION:
            return stack_samples([self[item] for item in items])
        # A forked child inherits the pool object but not its threads.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = (os.getpid(), ThreadPoolExecutor(self._threads, "get3d-decode"))
        return stack_samples(list(self._pool[1].map(self.__getitem__, items)))

    def _pixels_4HW(self, index: int) -> np.ndarray:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        rgba_4HW = np.ascontiguousarray(read_pixels(self.source, index, self._resolution).transpose(2, 0, 1))
        if rgba_4HW.nbytes <= self._cache_left:
            self._cache_left -= rgba_4HW.nbytes
            self._cache[index] = rgba_4HW
        return rgba_4HW

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None, "_cache": {}, "_cache_left": self._cache_budget()}

    def _cache_budget(self) -> int:
        return self._cache_left + sum(value.nbytes for value in self._cache.values())


def to_training_tensor(rgba_u8_B4HW: Tensor, background: float | tuple[float, float, float]) -> Tensor:
    """What the discriminator sees of a real image: RGB over a constant background, and the silhouette.

    rgba_u8_B4HW: uint8, straight alpha, on any device. background: grey level or RGB colour in [-1, 1].
    Returns B4HW float32: rgb * alpha + background * (1 - alpha) in [-1, 1], then alpha in [0, 1].
    Raises ValueError for another data type or shape, or a background outside [-1, 1].
    """
    if rgba_u8_B4HW.dtype != torch.uint8 or rgba_u8_B4HW.ndim != 4 or rgba_u8_B4HW.shape[1] != 4:
        raise ValueError(f"expected uint8 (B, 4, H, W), got {rgba_u8_B4HW.dtype} {tuple(rgba_u8_B4HW.shape)}")
    color_3 = torch.as_tensor(background, dtype=torch.float32, device=rgba_u8_B4HW.device).expand(3)
    # On the host's copy of the argument: a check on the device would wait for it in every step.
    if not all(
        -1.0 <= value <= 1.0
        for value in torch.as_tensor(background, dtype=torch.float32).reshape(-1).tolist()
    ):
        raise ValueError(f"the background must be in [-1, 1], got {background}")
    image_B4HW = rgba_u8_B4HW.float()
    mask_B1HW = image_B4HW[:, 3:] / 255.0
    rgb_B3HW = image_B4HW[:, :3] / 127.5 - 1.0
    color_1311 = color_3.view(1, 3, 1, 1)
    return torch.cat([color_1311 + (rgb_B3HW - color_1311) * mask_B1HW, mask_B1HW], dim=1)
