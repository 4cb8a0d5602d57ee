"""The rule for shapes whose SDF has one sign everywhere.

Source: GET3D (Gao et al. 2022), appendix: an empty shape gets a forced sign change, so that rendering stays
defined, and a pull of its SDF values towards zero instead of a gradient through the mesh.
The grid says which vertices are tested (`sign_tested_N`): FlexiCubes makes no face of an edge on the outer
boundary, so there the outermost layer of vertices has no say.

Shape legend: B batch, N grid vertices
"""

from __future__ import annotations

import torch
from torch import Tensor

from get3d_model.isosurface.base import IsosurfaceGrid
from get3d_model.ops.dispatch import is_fused


def repair_empty_shapes(
    sdf_BN: Tensor, deform_BN3: Tensor, grid: IsosurfaceGrid
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (sdf_BN, deform_BN3, empty_B, regulariser_B).

    For an empty shape the centre vertex is set to +1 and the boundary to -1, SDF and deformation are detached,
    and the regulariser is mean |sdf| (with its gradient); all else passes through untouched.
    """
    if is_fused(sdf_BN) and sdf_BN.dtype == deform_BN3.dtype == torch.float32:
        from get3d_model.ops.fused.empty_shape import RepairEmptyShapes

        tables = (grid.sign_tested_N, grid.boundary_N, grid.center_index)
        return RepairEmptyShapes.apply(sdf_BN, deform_BN3, *tables)
    # A value of exactly zero counts for neither sign: the extractors do not agree on its side.
    positive_B = ((sdf_BN > 0) & grid.sign_tested_N).any(dim=1)
    negative_B = ((sdf_BN < 0) & grid.sign_tested_N).any(dim=1)
    empty_B = ~(positive_B & negative_B)
    repaired_BN = torch.where(grid.boundary_N, -1.0, sdf_BN.detach())
    repaired_BN = repaired_BN.index_fill(1, grid.center_index.reshape(1), 1.0)
    regulariser_B = torch.where(empty_B, sdf_BN.abs().mean(dim=1), sdf_BN.new_zeros(()))
    sdf_BN = torch.where(empty_B[:, None], repaired_BN, sdf_BN)
    deform_BN3 = torch.where(empty_B[:, None, None], deform_BN3.detach(), deform_BN3)
    return sdf_BN, deform_BN3, empty_B, regulariser_B
