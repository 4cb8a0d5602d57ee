"""The cheapest exact way to read planes and volumes at the vertices of a grid, chosen once per grid.

Under mirror symmetry |x| stands for x.

Shape legend: N grid vertices, P points
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from get3d_model.isosurface.base import IsosurfaceGrid
from get3d_model.ops.triplane import LatticeLookup, PointLookup
from get3d_model.ops.volume import VolumeLatticeLookup, VolumePointLookup

Lattices = Sequence[tuple[Tensor, Tensor, Tensor]]


def fold_points(points_P3: Tensor, mirror_symmetry: bool) -> Tensor:
    """The points whose features are read for `points_P3`."""
    return torch.cat([points_P3[:, :1].abs(), points_P3[:, 1:]], dim=1) if mirror_symmetry else points_P3


def fold_lattices(lattices: Lattices, extent_3: Tensor, mirror_symmetry: bool) -> Lattices:
    """The same for lattices, in the unit coordinates of the grid."""
    ex, ey, ez = extent_3.unbind()
    return [((x.abs() if mirror_symmetry else x) / ex, y / ey, z / ez) for x, y, z in lattices]


def plane_lookup(grid: IsosurfaceGrid, plane_resolution: int, mirror_symmetry: bool) -> nn.Module:
    """Tri-planes -> features BCN at the grid vertices."""
    if not grid.lattices:
        return PointLookup(fold_points(grid.vertices_N3 / grid.extent, mirror_symmetry))
    return LatticeLookup(fold_lattices(grid.lattices, grid.extent, mirror_symmetry), plane_resolution)


def volume_lookup(
    points_P3: Tensor, lattices: Lattices, extent_3: Tensor, volume_resolution: int, mirror_symmetry: bool
) -> nn.Module:
    """A feature volume -> features BPC at points (world units) of a grid, or at the lattices they form."""
    if not lattices:
        return VolumePointLookup(fold_points(points_P3 / extent_3, mirror_symmetry))
    return VolumeLatticeLookup(fold_lattices(lattices, extent_3, mirror_symmetry), volume_resolution)
