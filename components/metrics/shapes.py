"""The meshes of a folder as the metrics need them, and those that cannot be used with the reason.

Shape legend: S shapes, P points, L A F of a light field descriptor
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from components.metrics.feature_cache import FeatureCache
from components.metrics.settings import MetricsSettings
from components.render.inputs import MeshFile, find_meshes
from components.render.mesh_files import inspect_meshes
from get3d_model.errors import InputError
from get3d_model.mesh_io import load_textured_mesh
from get3d_model.mesh_topology import MeshTopology
from get3d_model.metrics.lfd import VERSION, lfd_descriptors, silhouette_backend
from get3d_model.metrics.mesh_quality import MeshQuality, measure_quality
from get3d_model.metrics.points import surface_points
from get3d_model.types import TexturedMesh

# What a readable mesh without a surface is set aside for: by the loader, the points or the silhouettes.
_EMPTY = ("contains no triangles", "at one point", "without area", "renders empty")
# Changes when points or quality of the same mesh would.
FEATURES_VERSION = 1


@dataclass(frozen=True)
class MeasuredShapes:
    """names: relative paths, sorted by shape id. points_SP3, descriptors_SLAF, qualities: in that order, as far as
    asked for. excluded: (relative path, reason). found: mesh files in the folder."""

    names: list[str]
    points_SP3: np.ndarray | None
    descriptors_SLAF: np.ndarray | None
    qualities: list[MeshQuality] = field(default_factory=list)
    excluded: list[tuple[str, str]] = field(default_factory=list)
    found: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @property
    def empty(self) -> int:
        """Readable meshes without a surface, which are among the excluded ones."""
        return sum(any(phrase in reason for phrase in _EMPTY) for _, reason in self.excluded)


def measure_folder(
    folder: Path,
    settings: MetricsSettings,
    cache: FeatureCache,
    device: torch.device,
    label: str,
    quality: bool = False,
) -> MeasuredShapes:
    """Loads every mesh of a folder at most once, and only if the cache lacks something of it.

    Raises InputError for a folder without meshes, or with fewer usable ones than the minimum.
    """
    files = find_meshes(folder)
    hashes = {shape_id: facts.sha256 for shape_id, facts in inspect_meshes(files, folder).items()}
    reader = _Reader(folder, settings, cache, device, hashes, quality)
    with tqdm(total=len(files), desc=label, disable=not sys.stderr.isatty()) as bar:
        reader.read(files, bar)
    usable = [file for file in files if file.shape_id not in reader.problems]
    excluded = [(f.relative, reader.problems[f.shape_id]) for f in files if f.shape_id in reader.problems]
    if len(usable) < settings.minimum:
        why = (
            f"; the first of {len(excluded)} excluded: {excluded[0][0]}: {excluded[0][1]}" if excluded else ""
        )
        raise InputError(
            f"{folder} has {len(usable)} usable meshes of {len(files)}; at least {settings.minimum} are needed "
            f"(--minimum){why}"
        )
    return MeasuredShapes(
        names=[file.relative for file in usable],
        points_SP3=np.stack([reader.points[f.shape_id] for f in usable]) if reader.points else None,
        descriptors_SLAF=np.stack([reader.descriptors[f.shape_id] for f in usable])
        if reader.descriptors
        else None,
        qualities=[reader.qualities[f.shape_id] for f in usable] if quality else [],
        excluded=excluded,
        found=len(files),
    )


class _Reader:
    """Collects features by shape id; what cannot be used lands in `problems`."""

    def __init__(
        self,
        folder: Path,
        settings: MetricsSettings,
        cache: FeatureCache,
        device: torch.device,
        hashes: dict[str, str],
        quality: bool,
    ) -> None:
        self._folder, self._settings, self._cache, self._device = folder, settings, cache, device
        self._hashes, self._quality = hashes, quality
        self._lfd = "lfd" in settings.distances
        self.points: dict[str, np.ndarray] = {}
        self.descriptors: dict[str, np.ndarray] = {}
        self.qualities: dict[str, MeshQuality] = {}
        self.problems: dict[str, str] = {}
        self._keys = {
            "points": {"version": FEATURES_VERSION, **settings.point_key()},
            # Pixels on edges differ between rasterisers.
            "lfd": {"version": VERSION, "rasterizer": silhouette_backend(device)},
            "quality": {"version": FEATURES_VERSION, "seed": settings.seed},
        }

    def read(self, files: list[MeshFile], bar: tqdm) -> None:
        waiting = []
        for file in files:
            if self._from_cache(file):
                bar.update(1)
            else:
                waiting.append(file)
        if not self._lfd:
            for _ in self._loaded(waiting, bar):
                bar.update(1)
            return
        # Descriptors are computed by threads while this one loads the next meshes.
        for shape_id, result in lfd_descriptors(self._loaded(waiting, bar), self._device):
            bar.update(1)
            if isinstance(result, InputError):
                self.problems[shape_id] = str(result).removeprefix(f"{shape_id}: ")
            else:
                self.descriptors[shape_id] = result
                self._cache.put("lfd", self._hashes[shape_id], self._keys["lfd"], result)

    def _from_cache(self, file: MeshFile) -> bool:
        """Whether everything asked for was there."""
        shape_id, sha256 = file.shape_id, self._hashes[file.shape_id]
        wanted = ["points", *(["lfd"] if self._lfd else []), *(["quality"] if self._quality else [])]
        values = {kind: self._cache.get(kind, sha256, self._keys[kind]) for kind in wanted}
        if any(value is None for value in values.values()):
            return False
        self.points[shape_id] = values["points"]
        if self._lfd:
            self.descriptors[shape_id] = values["lfd"]
        if self._quality:
            self.qualities[shape_id] = quality_from_numbers(values["quality"])
        return True

    def _loaded(self, files: list[MeshFile], bar: tqdm) -> Iterator[tuple[str, TexturedMesh]]:
        """Meshes with points and, if asked for, quality; others are set aside."""
        settings = self._settings
        for file in files:
            shape_id, sha256 = file.shape_id, self._hashes[file.shape_id]
            try:
                mesh = load_textured_mesh(file.path, self._folder)
                points_P3 = surface_points(
                    mesh, settings.points, settings.seed, settings.normalize, settings.surface
                )
                if not np.isfinite(points_P3).all():
                    raise InputError("it has vertices that are not finite numbers")
            except InputError as error:
                self.problems[shape_id] = str(error).removeprefix(f"{file.path}: ")
                bar.update(1)
                continue
            self.points[shape_id] = points_P3
            self._cache.put("points", sha256, self._keys["points"], points_P3)
            if self._quality:
                self.qualities[shape_id] = quality = measure_quality(mesh, settings.seed)
                self._cache.put("quality", sha256, self._keys["quality"], quality_numbers(quality))
            yield shape_id, mesh


def quality_numbers(quality: MeshQuality) -> np.ndarray:
    """For the cache."""
    t = quality.topology
    return np.array(
        [
            t.watertight, t.winding_consistent, t.euler_characteristic, t.components, t.boundary_edges,
            t.degenerate_faces, t.vertices, t.faces, quality.nonmanifold_edges, quality.nonmanifold_vertices,
            quality.self_intersection_share, quality.texture_utilisation,
        ],
        dtype=np.float64,
    )  # fmt: skip


def quality_from_numbers(values: np.ndarray) -> MeshQuality:
    """What `quality_numbers` made numbers of."""
    flags, counts = [bool(v) for v in values[:2]], [int(v) for v in values[2:10]]
    return MeshQuality(MeshTopology(*flags, *counts[:6]), *counts[6:], *(float(v) for v in values[10:]))
