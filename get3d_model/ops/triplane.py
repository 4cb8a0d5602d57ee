"""Tri-plane lookup: three axis-aligned feature planes, summed.

Source: EG3D (Chan et al. 2022), section 3.2, as used by GET3D: plane 0 is sampled at (x, y), plane 1 at
(y, z), plane 2 at (x, z); bilinear, zero padding, pixel centres not aligned to the corners.

Shape legend: B batch, C channels of one plane, R plane resolution, P points
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLANE_AXES = ((0, 1), (1, 2), (0, 2))


def split_planes(planes_BCRR: Tensor) -> Tensor:
    """B(3C)RR -> B3CRR."""
    batch, channels, height, width = planes_BCRR.shape
    return planes_BCRR.view(batch, 3, channels // 3, height, width)


def sample_triplanes(planes_BCRR: Tensor, points_BP3: Tensor) -> Tensor:
    """Features at points in [-1, 1] (clamped); returns BPC. No gradient flows into the points.

    planes_BCRR: B(3C)RR, the channels of plane 0, 1, 2 one after the other.
    """
    points = points_BP3.detach().clamp(-1.0, 1.0)
    planes_B3CRR = split_planes(planes_BCRR)
    batch, _, channels = planes_B3CRR.shape[:3]
    uv_B3P2 = torch.stack([points[..., list(axes)] for axes in PLANE_AXES], dim=1)
    features = F.grid_sample(
        planes_B3CRR.flatten(0, 1),
        uv_B3P2.flatten(0, 1)[:, None].to(planes_BCRR.dtype),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return features.view(batch, 3, channels, -1).sum(dim=1).transpose(1, 2)


class LatticeLookup(nn.Module):
    """`sample_triplanes` for a fixed point set, the grid vertices, which project onto few plane positions.

    The vertices of a lattice of resolution n are O(n^3) points, but each plane sees only O(n^2) distinct
    positions. Each is sampled once (bilinear weights and indices are buffers), and the three results are
    gathered and summed. The values are those of `sample_triplanes`.
    """

    def __init__(self, points_P3: Tensor) -> None:
        super().__init__()
        points = points_P3.double().clamp(-1.0, 1.0)
        for plane, axes in enumerate(PLANE_AXES):
            positions_U2, index_P = torch.unique(points[:, list(axes)], dim=0, return_inverse=True)
            self.register_buffer(f"positions_{plane}", positions_U2.float(), persistent=False)
            self.register_buffer(f"index_{plane}", index_P, persistent=False)

    def forward(self, planes_BCRR: Tensor) -> Tensor:
        """Features at every lattice point; returns BPC."""
        planes_B3CRR = split_planes(planes_BCRR)
        batch = planes_BCRR.shape[0]
        total = None
        for plane in range(3):
            positions_U2 = getattr(self, f"positions_{plane}").to(planes_BCRR.dtype)
            sampled_BCU = F.grid_sample(
                planes_B3CRR[:, plane],
                positions_U2[None, None].expand(batch, -1, -1, -1),
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )[:, :, 0]
            sampled_BUC = sampled_BCU.transpose(1, 2).contiguous()
            gathered_BPC = sampled_BUC.index_select(1, getattr(self, f"index_{plane}"))
            total = gathered_BPC if total is None else total + gathered_BPC
        return total
