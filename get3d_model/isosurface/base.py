"""The isosurface interface: a grid and an extractor that turns SDF values at its vertices into packed meshes.

Shape legend: B batch, N grid vertices, E grid edges, T tetrahedra
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from get3d_model.types import PackedMeshes


class IsosurfaceGrid(Protocol):
    """The fixed sampling grid of a generator.

    sign_tested_N: bool, the vertices whose signs decide whether a shape is empty.
    """

    resolution: int
    vertices_N3: Tensor
    edges_E2: Tensor
    center_index: Tensor
    boundary_N: Tensor
    sign_tested_N: Tensor


class IsosurfaceExtractor(Protocol):
    """Extracts every mesh of a batch at once."""

    grid: nn.Module

    def __call__(self, sdf_BN: Tensor, deform_BN3: Tensor) -> PackedMeshes: ...
