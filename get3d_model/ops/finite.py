"""Making tensors finite in place, and measuring them, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from get3d_model.ops.dispatch import is_fused

REPLACEMENT_OF_INF = 1e5


def make_finite(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Replaces NaN by 0 and infinities by +-1e5; returns (L2 norm of all values afterwards, how many were replaced).

    tensors: one or more, float32, of one device, each dense in memory; changed in place.
    """
    if is_fused(tensors[0]):
        from get3d_model.ops.fused.finite import make_finite_fused

        return make_finite_fused(tensors, REPLACEMENT_OF_INF)
    replaced = torch.stack([tensor.isfinite().logical_not_().sum() for tensor in tensors]).sum()
    for tensor in tensors:
        tensor.nan_to_num_(nan=0.0, posinf=REPLACEMENT_OF_INF, neginf=-REPLACEMENT_OF_INF)
    return torch.stack(torch._foreach_norm(list(tensors))).norm(), replaced
