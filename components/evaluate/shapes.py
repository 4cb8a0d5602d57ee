"""The shapes that are compared, and those of held-out and training meshes.

Shape legend: S shapes of a set, P points
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from components.render.axes import Axes
from get3d_model.config import EvaluationConfig
from get3d_model.data.manifest import Manifest
from get3d_model.errors import InputError
from get3d_model.mesh_io import load_textured_mesh
from get3d_model.metrics.chamfer import surface_points
from get3d_model.types import TexturedMesh

Excluded = list[tuple[str, str]]


@dataclass(frozen=True)
class ShapeSet:
    """names: shape ids, or the seeds of samples. points_SP3: on their surfaces, longest side 1."""

    names: list[str]
    points_SP3: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Sequence[int] | np.ndarray) -> ShapeSet:
        index = np.asarray(index, dtype=np.int64)
        return ShapeSet([self.names[i] for i in index], self.points_SP3[index])


@dataclass(frozen=True)
class MeshFolder:
    """The meshes that a data set was rendered from, in its axes."""

    folder: Path
    manifest: Manifest

    def load(self, shape_id: str) -> TexturedMesh:
        """Raises InputError for a mesh that is missing or damaged."""
        up, front = self.manifest.settings.get("axes", ("y", "z"))
        path = self.folder / self.manifest.shapes[shape_id].source
        return Axes(up, front).turn(load_textured_mesh(path))


def mesh_shapes(
    meshes: MeshFolder, shape_ids: Sequence[str], settings: EvaluationConfig, label: str
) -> tuple[ShapeSet, Excluded]:
    """Shapes of a data set, sorted by id, and those whose mesh cannot be used.

    Raises InputError for an id that the data set does not have.
    """
    names, points, excluded = [], [], []
    for shape_id in tqdm(sorted(shape_ids), desc=label, disable=not sys.stderr.isatty()):
        if shape_id not in meshes.manifest.shapes:
            raise InputError(f"the manifest's split lists {shape_id}, which was not rendered; render again")
        try:
            points_P3 = surface_points(meshes.load(shape_id), settings.surface_points, settings.seed)
        except InputError as error:
            excluded.append((meshes.manifest.shapes[shape_id].source, str(error)))
            continue
        names.append(shape_id)
        points.append(points_P3)
    return ShapeSet(names, stack_points(points, settings)), excluded


def held_out_shapes(meshes: MeshFolder, settings: EvaluationConfig) -> tuple[ShapeSet, Excluded]:
    """The references. Raises InputError without the split, or with fewer usable meshes than `min_references`."""
    held_out = meshes.manifest.splits.get(settings.split) or []
    if not held_out:
        raise InputError(
            f"the data set's manifest has no {settings.split} split; render again with a larger --val-fraction"
        )
    shapes, excluded = mesh_shapes(meshes, held_out, settings, "held-out meshes")
    if len(shapes) < settings.min_references:
        why = f" ({len(excluded)} cannot be used; the first: {excluded[0][1]})" if excluded else ""
        raise InputError(
            f"{len(shapes)} held-out meshes are too few: at least {settings.min_references} are needed "
            f"(evaluation.min_references){why}"
        )
    return shapes, excluded


def stack_points(points: list[np.ndarray], settings: EvaluationConfig) -> np.ndarray:
    """SP3, of no shape as well."""
    return np.stack(points) if points else np.zeros((0, settings.surface_points, 3), np.float32)
