"""Distances to the nearest point: the interface, and our own implementation for every device.

Shape legend: S point sets, P reference points, Q points of a set
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class NearestDistance(Protocol):
    """Squared distances between the points of one set and their nearest points in others."""

    def sets_at_once(self, points: int, others: int) -> int:
        """How many sets of `others` points one call should take against `points`, to bound its memory."""
        ...

    def __call__(self, reference_P3: Tensor, points_SQ3: Tensor) -> tuple[Tensor, Tensor]:
        """(SP, SQ): from each reference point to the nearest of each set, and from each point of a set to the
        nearest reference point. float32 in and out, not negative."""
        ...


class MatrixProductDistance:
    """All distances of a block of sets as one matrix product: [-2p, |p|^2, 1] . [q, 1, |q|^2]."""

    def sets_at_once(self, points: int, others: int) -> int:
        """See `NearestDistance.sets_at_once`: 2^23 distances, 32 MB."""
        return max(1, (1 << 23) // max(1, points * others))

    def __call__(self, reference_P3: Tensor, points_SQ3: Tensor) -> tuple[Tensor, Tensor]:
        """See `NearestDistance.__call__`. Accurate to float32 rounding of |p|^2, so keep points near the origin."""
        square_P1 = reference_P3.square().sum(dim=-1, keepdim=True)
        square_SQ1 = points_SQ3.square().sum(dim=-1, keepdim=True)
        reference_P5 = torch.cat([reference_P3 * -2.0, square_P1, torch.ones_like(square_P1)], dim=-1)
        points_SQ5 = torch.cat([points_SQ3, torch.ones_like(square_SQ1), square_SQ1], dim=-1)
        distance_SPQ = torch.matmul(reference_P5, points_SQ5.transpose(1, 2))
        return distance_SPQ.amin(dim=2).clamp(min=0), distance_SPQ.amin(dim=1).clamp(min=0)


class FusedNearestDistance:
    """Our kernel for CUDA devices with Triton, which keeps no distances."""

    def sets_at_once(self, points: int, others: int) -> int:
        """See `NearestDistance.sets_at_once`: the results and a copy of the points are all the memory there is."""
        return max(1, (1 << 25) // max(1, points + others))

    def __call__(self, reference_P3: Tensor, points_SQ3: Tensor) -> tuple[Tensor, Tensor]:
        """See `NearestDistance.__call__`."""
        # Triton is installed beside CUDA builds of torch only.
        from get3d_model.ops.fused.nearest import nearest_squared

        return nearest_squared(reference_P3[None], points_SQ3)
