"""The shapes that are compared, and those of held-out and training meshes.

Shape legend: S shapes of a set, P points, L A F of a light field descriptor
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from components.metrics.feature_cache import FeatureCache
from components.metrics.shapes import FEATURES_VERSION, quality_from_numbers, quality_numbers
from components.render.axes import Axes
from components.render.inputs import MeshFile
from components.render.mesh_files import inspect_meshes
from get3d_model.data.manifest import Manifest
from get3d_model.errors import InputError
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.mesh_io import load_textured_mesh
from get3d_model.metrics.lfd import VERSION, lfd_descriptors, silhouette_backend
from get3d_model.metrics.light_field import AXES, LIGHT_FIELDS
from get3d_model.metrics.mesh_quality import MeshQuality, measure_quality
from get3d_model.metrics.points import surface_points
from get3d_model.metrics.silhouette_features import FEATURES
from get3d_model.types import Mesh, TexturedMesh

LFD_SHAPE = (LIGHT_FIELDS, AXES, FEATURES)
Excluded = list[tuple[str, str]]


@dataclass(frozen=True)
class ShapeSet:
    """names: shape ids, or the seeds of samples. points_SP3: on their surfaces, scaled as evaluation.normalize says.
    descriptors_SLAF: of the light field distance; None where it is not asked for. qualities: of meshes of the data
    set; none for samples, some of which have a quality but no surface."""

    names: list[str]
    points_SP3: np.ndarray
    descriptors_SLAF: np.ndarray | None = None
    qualities: Sequence[MeshQuality] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Sequence[int] | np.ndarray) -> ShapeSet:
        index = np.asarray(index, dtype=np.int64)
        descriptors = None if self.descriptors_SLAF is None else self.descriptors_SLAF[index]
        qualities = [self.qualities[i] for i in index] if self.qualities else ()
        return ShapeSet([self.names[i] for i in index], self.points_SP3[index], descriptors, qualities)


@dataclass(frozen=True)
class MeshFolder:
    """The meshes that a data set was rendered from, in its axes."""

    folder: Path
    manifest: Manifest

    def file(self, shape_id: str) -> MeshFile:
        """Raises InputError for an id that the data set does not have."""
        if shape_id not in self.manifest.shapes:
            raise InputError(f"the manifest's split lists {shape_id}, which was not rendered; render again")
        source = self.manifest.shapes[shape_id].source
        return MeshFile(shape_id, self.folder / source, source)

    def load(self, shape_id: str) -> TexturedMesh:
        """Raises InputError for a mesh that is missing or damaged."""
        up, front = self.manifest.settings.get("axes", ("y", "z"))
        return Axes(up, front).turn(load_textured_mesh(self.file(shape_id).path, self.folder))


class ShapeReader:
    """Describes shapes for the metrics: points, and descriptors where they are asked for.

    What is computed of a mesh file is kept by the file's hash. changed: the files, relative to the mesh folder, that are
    not those that the data set was rendered from.
    """

    def __init__(
        self, meshes: MeshFolder, settings: EvaluationConfig, cache: FeatureCache, device: torch.device
    ) -> None:
        self._meshes, self._settings, self._cache, self._device = meshes, settings, cache, device
        self._lfd = "lfd" in settings.distances
        self.changed: set[str] = set()
        turned = {"axes": axes} if (axes := meshes.manifest.settings.get("axes")) else {}
        self._keys: dict[str, dict[str, Any]] = {
            "points": {
                "version": FEATURES_VERSION, "points": settings.surface_points, "seed": settings.seed,
                "surface": settings.surface, "normalize": settings.normalize, **turned,
            },
            # Pixels on edges differ between rasterisers.
            "lfd": {"version": VERSION, "rasterizer": silhouette_backend(device), **turned},
            "quality": {"version": FEATURES_VERSION, "seed": settings.seed},
        }  # fmt: skip

    def read(self, shape_ids: Sequence[str], label: str) -> tuple[ShapeSet, Excluded]:
        """Shapes of the data set, sorted by id, and those whose mesh cannot be used.

        Raises InputError for an id that the data set does not have.
        """
        files = [self._meshes.file(shape_id) for shape_id in sorted(shape_ids)]
        facts = inspect_meshes(files, self._meshes.folder)
        for file in files:
            rendered = self._meshes.manifest.shapes[file.shape_id].sha256
            if facts[file.shape_id].sha256 not in ("", rendered):
                self.changed.add(file.relative)
        known: dict[str, list[np.ndarray]] = {}
        for file in files:
            values = [self._cache.get(kind, facts[file.shape_id].sha256, key) for kind, key in self._wanted()]
            if all(value is not None for value in values):
                known[file.shape_id] = values
        wanted = [file for file in files if file.shape_id not in known]
        qualities: dict[str, MeshQuality] = {}
        new, excluded = self.describe(self._load(wanted), label, len(wanted), qualities)
        for place, name in enumerate(new.names):
            known[name] = [
                new.points_SP3[place],
                *([new.descriptors_SLAF[place]] if self._lfd else []),
                quality_numbers(qualities[name]),
            ]
            for (kind, key), value in zip(self._wanted(), known[name], strict=True):
                self._cache.put(kind, facts[name].sha256, key, value)
        names = [file.shape_id for file in files if file.shape_id in known]
        relative = {file.shape_id: file.relative for file in files}
        paths = {file.shape_id: file.path for file in files}
        reasons = [(relative[name], why.removeprefix(f"{paths[name]}: ")) for name, why in excluded]
        measured = [quality_from_numbers(known[name][-1]) for name in names]
        return replace(self._set(names, known), qualities=measured), reasons

    def describe(
        self,
        named: Iterable[tuple[str, Mesh | TexturedMesh | InputError]],
        label: str,
        total: int,
        qualities: dict[str, MeshQuality] | None = None,
    ) -> tuple[ShapeSet, Excluded]:
        """Shapes in the order of `named`, and (name, reason) of those that cannot be used. An error in the place of
        a mesh sets that one aside. `named` is walked once; some meshes are held at a time. total: how many there are.
        qualities: takes those of the meshes, by name."""
        settings, excluded = self._settings, {}
        found: dict[str, list[np.ndarray]] = {}

        def usable() -> Iterator[tuple[str, Mesh | TexturedMesh]]:
            for name, mesh in tqdm(named, desc=label, total=total, disable=not sys.stderr.isatty()):
                try:
                    if isinstance(mesh, InputError):
                        raise mesh
                    points_P3 = surface_points(
                        mesh, settings.surface_points, settings.seed, settings.normalize, settings.surface
                    )
                    if not np.isfinite(points_P3).all():
                        raise InputError("it has vertices that are not finite numbers")
                except InputError as error:
                    excluded[name] = str(error)
                    continue
                found[name] = [points_P3]
                if qualities is not None:
                    qualities[name] = measure_quality(mesh, settings.seed)
                yield name, mesh

        if self._lfd:
            # Descriptors are computed by threads while this one gets the next meshes.
            for name, result in lfd_descriptors(usable(), self._device):
                if isinstance(result, InputError):
                    excluded[name] = str(result).removeprefix(f"{name}: ")
                    del found[name]
                else:
                    found[name].append(result)
        else:
            for _ in usable():
                pass
        return self._set(list(found), found), list(excluded.items())

    def _wanted(self) -> list[tuple[str, dict[str, Any]]]:
        kinds = ("points", "lfd", "quality") if self._lfd else ("points", "quality")
        return [(kind, self._keys[kind]) for kind in kinds]

    def _load(self, files: Iterable[MeshFile]) -> Iterator[tuple[str, TexturedMesh | InputError]]:
        for file in files:
            try:
                yield file.shape_id, self._meshes.load(file.shape_id)
            except InputError as error:
                yield file.shape_id, error

    def _set(self, names: list[str], found: dict[str, list[np.ndarray]]) -> ShapeSet:
        points = [found[name][0] for name in names]
        empty_SP3 = np.zeros((0, self._settings.surface_points, 3), np.float32)
        descriptors = [found[name][1] for name in names] if self._lfd else []
        return ShapeSet(
            names,
            np.stack(points) if points else empty_SP3,
            np.stack(descriptors)
            if descriptors
            else (np.zeros((0, *LFD_SHAPE), np.uint8) if self._lfd else None),
        )


def held_out_shapes(
    reader: ShapeReader, manifest: Manifest, settings: EvaluationConfig
) -> tuple[ShapeSet, Excluded]:
    """The references. Raises InputError without the split, or with fewer usable meshes than `min_references`."""
    held_out = manifest.splits.get(settings.split) or []
    if not held_out:
        raise InputError(
            f"the data set's manifest has no {settings.split} split; render again with a larger --val-fraction"
        )
    shapes, excluded = reader.read(held_out, "held-out meshes")
    if len(shapes) < settings.min_references:
        why = (
            f" ({len(excluded)} cannot be used; the first is {excluded[0][0]}: {excluded[0][1]}; the mesh folder must be the "
            "one that the data set was rendered from)"
            if excluded
            else ""
        )
        raise InputError(
            f"{len(shapes)} held-out meshes are too few: at least {settings.min_references} are needed "
            f"(evaluation.min_references){why}"
        )
    return shapes, excluded
