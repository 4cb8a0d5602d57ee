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
    """All distances of a block of sets as one matrix product, |p|^2 - 2 p.q + |q|^2."""

    def sets_at_once(self, points: int, others: int) -> int:
        """See `NearestDistance.sets_at_once`: 2^23 distances, 32 MB."""
        return max(1, (1 << 23) // max(1, points * others))

    def __call__(self, reference_P3: Tensor, points_SQ3: Tensor) -> tuple[Tensor, Tensor]:
        """See `NearestDistance.__call__`. Accurate to float32 rounding of |p|^2, so keep points near the origin."""
        distance_SPQ = torch.matmul(reference_P3 * -2.0, points_SQ3.transpose(1, 2))
        distance_SPQ += reference_P3.square().sum(dim=-1, keepdim=True)
        distance_SPQ += points_SQ3.square().sum(dim=-1)[:, None, :]
        return distance_SPQ.amin(dim=2).clamp(min=0), distance_SPQ.amin(dim=1).clamp(min=0)
