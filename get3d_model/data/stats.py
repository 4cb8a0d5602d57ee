"""Figures of a data set that are known without decoding an image."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from get3d_model.data.dataset import images_of_split
from get3d_model.data.shard_source import ShardSource
from get3d_model.data.verify import open_any


@dataclass(frozen=True)
class DatasetStats:
    """classes: shapes by class. splits: images by split. views_per_shape: fewest and most.

    rotation_deg, elevation_deg: lowest, mean and highest of all cameras. shards: number of tars; shard_bytes: fewest,
    mean and most bytes of one; image_bytes: mean of an encoded image; None in the published layout.
    rejected: meshes that were set aside; None when not known.
    """

    path: str
    layout: str
    resolution: int
    shapes: int
    images: int
    views_per_shape: tuple[int, int]
    classes: dict[str, int]
    splits: dict[str, int]
    rotation_deg: tuple[float, float, float]
    elevation_deg: tuple[float, float, float]
    shards: int | None = None
    shard_bytes: tuple[int, int, int] | None = None
    image_bytes: int | None = None
    rejected: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """A few lines for a person."""
        views = "-".join(map(str, dict.fromkeys(self.views_per_shape)))
        lines = [
            f"{self.path}: {self.layout} layout",
            f"shapes      {self.shapes}" + (f", {self.rejected} meshes set aside" if self.rejected else ""),
            f"images      {self.images} of {self.resolution} px, {views} of a shape",
            f"splits      {', '.join(f'{name} {count} images' for name, count in self.splits.items())}",
            f"classes     {', '.join(f'{name} {count}' for name, count in self.classes.items())}",
        ]
        for name, (low, mean, high) in (("rotation", self.rotation_deg), ("elevation", self.elevation_deg)):
            lines.append(f"{name:<12}{low:.1f} to {high:.1f} degrees, mean {mean:.1f}")
        if self.shard_bytes is not None:
            low, mean, high = (count / 1e6 for count in self.shard_bytes)
            lines.append(f"shards      {self.shards} of {low:.1f} to {high:.1f} MB, mean {mean:.1f} MB")
            lines.append(f"PNG         {self.image_bytes} bytes on average")
        return "\n".join(lines)


def dataset_stats(path: Path) -> DatasetStats:
    """Raises InputError for a folder that is missing, of no known layout, or inconsistent."""
    source = open_any(path)
    table = source.table
    views_S = np.bincount(table.shape_N)
    figures: dict[str, Any] = {}
    if isinstance(source, ShardSource):
        sizes = [stored.bytes for stored in source.manifest.shards]
        figures = {
            "shards": len(sizes),
            "shard_bytes": (min(sizes), round(sum(sizes) / len(sizes)), max(sizes)),
            "image_bytes": round(source.image_bytes / len(table)),
        }
    if source.manifest is not None:
        figures["rejected"] = len(source.manifest.rejected)
    return DatasetStats(
        path=str(source.path),
        layout=source.layout,
        resolution=source.resolution,
        shapes=len(table.shape_ids),
        images=len(table),
        views_per_shape=(int(views_S.min()), int(views_S.max())),
        classes=dict(sorted(Counter(table.labels).items())),
        splits={name: len(images_of_split(source, name)) for name in sorted(source.splits)},
        rotation_deg=_range(table.rotation_deg_N),
        elevation_deg=_range(table.elevation_deg_N),
        **figures,
    )


def _range(values_N: np.ndarray) -> tuple[float, float, float]:
    return float(values_N.min()), float(values_N.mean()), float(values_N.max())
