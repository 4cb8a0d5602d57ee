"""Small data sets with known pixels and cameras, in both layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from get3d_model.data.base import View
from get3d_model.data.manifest import Manifest, SourceMesh, write_manifest
from get3d_model.data.published import write_published_shape
from get3d_model.data.shards import assemble_shards, encode_piece

RESOLUTION = 16
SHAPES = ["cube", "long-name_with_underscores", "sphere", "torus", "ünïcode"]
VIEWS = 3
SPLITS = {"train": SHAPES[:3], "val": SHAPES[3:]}


def make_views(shape_id: str, views: int = VIEWS, resolution: int = RESOLUTION) -> list[View]:
    """Random colours inside a disc, cameras over the whole range of the published data."""
    rng = np.random.default_rng(sum(shape_id.encode()))
    y, x = np.mgrid[:resolution, :resolution] / (resolution - 1) - 0.5
    result = []
    for _ in range(views):
        rgba = rng.integers(0, 256, (resolution, resolution, 4), dtype=np.uint8)
        rgba[x**2 + y**2 > 0.2] = 0
        result.append(View(rgba, rng.uniform(0, 360), rng.uniform(0, 30)))
    return result


def write_shard_dataset(
    root: Path, shapes: dict[str, list[View]], shapes_per_shard: int = 2, splits: dict | None = None
) -> Path:
    pieces = {shape_id: encode_piece(shape_id, views, 1.2, 49.13) for shape_id, views in shapes.items()}
    entries, index = assemble_shards(root, list(shapes), pieces.__getitem__, shapes_per_shard)
    first = next(iter(shapes.values()))
    manifest = Manifest(
        resolution=first[0].rgba_HW4.shape[0],
        views_per_shape=len(first),
        category=None,
        settings={},
        renderer_version="test",
        shapes={shape_id: SourceMesh(f"{shape_id}.glb", "0" * 64) for shape_id in shapes},
        splits=SPLITS if splits is None else splits,
        shards=entries,
        index=index,
    )
    write_manifest(root, manifest)
    return root


def write_published_dataset(root: Path, shapes: dict[str, list[View]], category: str = "things") -> Path:
    for shape_id, views in shapes.items():
        write_published_shape(root, category, shape_id, views)
    return root


def make_shapes() -> dict[str, list[View]]:
    return {shape_id: make_views(shape_id) for shape_id in SHAPES}
