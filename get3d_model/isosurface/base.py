"""The isosurface interface: a grid and an extractor that turns SDF values at its vertices into packed meshes.

Shape legend: B batch, N grid vertices, E grid edges, T tetrahedra
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from get3d_model.types import ExtractedSurface, GeometryOutput


class IsosurfaceGrid(Protocol):
    """The fixed sampling grid of a generator.

    sign_tested_N: bool, the vertices whose signs decide whether a shape is empty.
    """

    resolution: int
    extent: Tensor
    lattices: tuple[tuple[Tensor, Tensor, Tensor], ...]
    vertices_N3: Tensor
    edges_E2: Tensor
    center_index: Tensor
    boundary_N: Tensor
    sign_tested_N: Tensor


class IsosurfaceExtractor(Protocol):
    """Extracts every mesh of a batch at once.

    max_deformation_cells: how far a grid vertex may move, in cells of side 1 / resolution.
    """

    grid: IsosurfaceGrid
    max_deformation_cells: float

    def surface(self, geometry: GeometryOutput) -> ExtractedSurface:
        """The zero level set of every shape; empty shapes get no gradient from it."""
        ...
