"""The options of the render step, checked where they enter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.render.axes import OUR_AXES, Axes
from components.render.blender.settings import BlenderSettings
from components.render.memory import LEAST_BYTES
from get3d_model.camera_settings import PUBLISHED_ORBIT, OrbitSettings
from get3d_model.data.parts import WHOLE, Shard
from get3d_model.data.shards import shapes_per_shard
from get3d_model.errors import InputError
from get3d_model.files import sha256_json
from get3d_model.png import PNG_ENCODING
from get3d_model.rendering.lighting import Lighting, LightSource

LAYOUTS = ("shards", "published", "both")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True)
class PixelSettings:
    """What decides the pixels of a shape's images, beside the mesh.

    views: images per shape. resolution: pixels. supersample: samples per pixel along each side.
    scale: longest side of a normalised mesh in world units. seed: of the camera directions.
    cameras: where they stand. axes: of the mesh files. blender: None for the project's own renderer; else
    supersample and lighting have no say.
    """

    views: int = 24
    resolution: int = 1024
    supersample: int = 4
    scale: float = 0.8
    seed: int = 0
    lighting: LightSource = field(default_factory=Lighting)
    cameras: OrbitSettings = PUBLISHED_ORBIT
    blender: BlenderSettings | None = None
    axes: Axes = OUR_AXES

    def __post_init__(self) -> None:
        _check(1 <= self.views <= 1000, f"--views must be 1 to 1000, not {self.views}")
        _check(8 <= self.resolution <= 8192, f"--resolution must be 8 to 8192, not {self.resolution}")
        _check(1 <= self.supersample <= 8, f"--supersample must be 1 to 8, not {self.supersample}")
        _check(0.0 < self.scale <= 1.0, f"--scale must be above 0 and at most 1, not {self.scale}")
        _check(self.seed >= 0, f"--seed must not be negative, got {self.seed}")

    @property
    def fov_deg(self) -> float:
        return round(self.cameras.field_of_view_deg, 6)

    def describe(self) -> dict[str, Any]:
        """For the manifest: these and the constants behind the pixels."""
        cameras = self.cameras
        # Named only where they differ, so that a data set rendered before they could be set is still current.
        unusual: dict[str, Any] = {}
        if cameras.rotation_deg != PUBLISHED_ORBIT.rotation_deg:
            unusual["rotation_range_deg"] = list(cameras.rotation_deg)
        if cameras.elevation_distribution != "uniform":
            unusual["elevation_distribution"] = [
                cameras.elevation_distribution,
                cameras.elevation_mean_deg,
                cameras.elevation_std_deg,
            ]
        if not self.axes.usual:
            unusual["axes"] = self.axes.describe()
        renderer: dict[str, Any] = {
            "supersample": self.supersample,
            "lighting": self.lighting.describe(),
        }
        return {
            **unusual,
            **(renderer if self.blender is None else self.blender.describe()),
            "views": self.views,
            "resolution": self.resolution,
            "scale": self.scale,
            "seed": self.seed,
            "radius": cameras.radius,
            "fov_deg": self.fov_deg,
            "elevation_range_deg": list(cameras.elevation_deg),
            "png_encoding": PNG_ENCODING,
        }

    def key(self, renderer_version: str, shape_id: str, source_sha256: str) -> str:
        """Names the images of one shape: whatever changes them changes the key."""
        return sha256_json([self.describe(), renderer_version, shape_id, source_sha256])[:32]


@dataclass(frozen=True)
class RenderOptions:
    """All options of `get3d render`.

    meshes: folder searched for mesh files. out: folder of the data set. workers: processes (None: one per
    processor). splits: folder with train.txt and val.txt (None: looked for in and above `meshes`).
    shapes_per_shard: shapes in one tar (None: as many as make a file of a good size).
    shard: the part of the meshes that this job renders; a part goes to a folder of its own in `out`.
    max_triangles: a mesh with more is set aside; so is one that makes a worker use more than max_memory bytes (None:
    its share of the memory that is free).
    val_fraction: of the hash split when there are no split files. mesh_timeout_s: seconds per mesh.
    layout: "shards", "published" or "both". category: folder name in the published layout.
    scales: longest side by class, in place of that of `pixels`. tables: files by what they say of shapes:
    "caption", "label", "group" (see `tables.py`).
    overwrite: render everything again, even what is there already. retry_rejected: try the meshes again that
    a finished run has set aside.
    """

    meshes: Path
    out: Path
    pixels: PixelSettings = PixelSettings()
    workers: int | None = None
    splits: Path | None = None
    val_fraction: float = 0.1
    shapes_per_shard: int | None = None
    mesh_timeout_s: float = 300.0
    layout: str = "shards"
    category: str = "shapes"
    overwrite: bool = False
    retry_rejected: bool = False
    shard: Shard = WHOLE
    max_triangles: int = 5_000_000
    max_memory: int | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.workers is None or self.workers >= 1, f"--workers must be at least 1, not {self.workers}")
        _check(0.0 <= self.val_fraction < 1.0, f"--val-fraction must be in [0, 1), not {self.val_fraction}")
        _check(
            self.shapes_per_shard is None or self.shapes_per_shard >= 1,
            f"--shapes-per-shard must be at least 1, not {self.shapes_per_shard}",
        )
        _check(self.max_triangles >= 1, f"--max-triangles must be at least 1, not {self.max_triangles}")
        _check(
            self.max_memory is None or self.max_memory >= LEAST_BYTES,
            f"--max-memory must be at least {LEAST_BYTES / 1e9:.2f} GB",
        )
        _check(
            self.shard.whole or self.layout == "shards",
            f"--shard writes shards, not --layout {self.layout}; convert afterwards with `get3d data convert`",
        )
        _check(self.mesh_timeout_s > 0.0, f"--mesh-timeout must be above 0, not {self.mesh_timeout_s}")
        _check(self.layout in LAYOUTS, f"--layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}")
        for label, scale in self.scales.items():
            _check(
                0.0 < scale <= 1.0,
                f"--scales: the scale of {label!r} must be above 0 and at most 1, not {scale}",
            )
        good_name = self.category and "/" not in self.category and not self.category.startswith(".")
        _check(bool(good_name), f"--category must be a folder name, not {self.category!r}")

    def pixels_of(self, label: str) -> PixelSettings:
        """Of the shapes of a class."""
        return replace(self.pixels, scale=self.scales.get(label, self.pixels.scale))

    @property
    def worker_count(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def shard_shapes(self) -> int:
        """Shapes in one tar."""
        return self.shapes_per_shard or shapes_per_shard(self.pixels.views, self.pixels.resolution)

    @property
    def writes_shards(self) -> bool:
        return self.layout in ("shards", "both")

    @property
    def writes_published(self) -> bool:
        return self.layout in ("published", "both")

    @property
    def category_written(self) -> str | None:
        """The category as far as it shows in the files."""
        return self.category if self.writes_published else None

    def describe(self) -> dict[str, Any]:
        """The settings part of the manifest: with the same meshes they give the same files."""
        return {
            **self.pixels.describe(),
            "shapes_per_shard": self.shard_shapes,
            "layout": self.layout,
            **({"scales": dict(self.scales)} if self.scales else {}),
        }
