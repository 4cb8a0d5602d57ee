"""Regulariser of the SDF: discourages floating surfaces inside and outside the shape.

Source: nvdiffrec (Munkberg et al. 2022), eq. 2, as used by GET3D.

Shape legend: B batch, N grid vertices, E grid edges
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.dispatch import is_fused


def sdf_sign_cross_entropy(sdf_BN: Tensor, edges_E2: Tensor) -> Tensor:
    """Binary cross entropy between the SDF values of grid edges whose ends differ in sign, both directions.

    Each end's value is a logit for the sign of the other end; mean over the crossed edges of the whole batch,
    summed over the two directions. Zero when no edge is crossed.
    """
    if is_fused(sdf_BN) and sdf_BN.dtype == torch.float32:
        from get3d_model.ops.fused.sign_entropy import SignCrossEntropy

        return SignCrossEntropy.apply(sdf_BN, edges_E2)
    a_BE = sdf_BN.index_select(1, edges_E2[:, 0])
    b_BE = sdf_BN.index_select(1, edges_E2[:, 1])
    # A value of exactly zero differs from either sign, as in the published implementation.
    crossed_BE = torch.sign(a_BE) != torch.sign(b_BE)
    count = crossed_BE.sum().clamp(min=1)
    entropy_BE = F.binary_cross_entropy_with_logits(
        a_BE, (b_BE > 0).to(a_BE.dtype), reduction="none"
    ) + F.binary_cross_entropy_with_logits(b_BE, (a_BE > 0).to(b_BE.dtype), reduction="none")
    return torch.where(crossed_BE, entropy_BE, 0.0).sum() / count
