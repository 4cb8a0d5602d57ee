"""Tri-plane lookup: three axis-aligned feature planes, summed.

Source: EG3D (Chan et al. 2022), section 3.2, as used by GET3D: plane 0 is sampled at (x, y), plane 1 at
(y, z), plane 2 at (x, z); bilinear, zero padding, pixel centres not aligned to the corners.

Shape legend: B batch, C channels of one plane, R plane resolution, P points
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLANE_AXES = ((0, 1), (1, 2), (0, 2))


def split_planes(planes_BCRR: Tensor) -> Tensor:
    """B(3C)RR -> B3CRR."""
    batch, channels, height, width = planes_BCRR.shape
    return planes_BCRR.view(batch, 3, channels // 3, height, width)


def sample_triplanes(planes_BCRR: Tensor, points_BP3: Tensor) -> Tensor:
    """Features at points in [-1, 1] (clamped); returns BCP. No gradient flows into the points.

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
    return features.view(batch, 3, channels, -1).sum(dim=1)


class PointLookup(nn.Module):
    """`sample_triplanes` at a fixed, arbitrary point set."""

    def __init__(self, points_P3: Tensor) -> None:
        super().__init__()
        self.register_buffer("points_P3", points_P3, persistent=False)

    def forward(self, planes_BCRR: Tensor) -> Tensor:
        """Features at every point; returns BCP."""
        return sample_triplanes(planes_BCRR, self.points_P3.expand(planes_BCRR.shape[0], -1, -1))


class LatticeLookup(nn.Module):
    """`sample_triplanes` at the vertices of axis-aligned rectangular lattices, one after the other.

    A lattice of n^3 points meets each plane at only n^2 positions, themselves a regular grid, so a plane is
    sampled by two small matrix products with fixed bilinear weights, and the sum over planes is a broadcast.
    No per-point gather in the forward pass, no scatter in the backward pass. The values are those of
    `sample_triplanes`.
    """

    def __init__(self, lattices: Sequence[tuple[Tensor, Tensor, Tensor]], plane_resolution: int) -> None:
        """lattices: the (x, y, z) coordinates in [-1, 1] of each; points run over z fastest, x slowest."""
        super().__init__()
        self.count = len(lattices)
        for index, coordinates in enumerate(lattices):
            for axis, values in enumerate(coordinates):
                weights = bilinear_weights(values, plane_resolution)
                self.register_buffer(f"weights_{index}_{axis}", weights, persistent=False)

    def forward(self, planes_BCRR: Tensor) -> Tensor:
        """Features at every lattice point; returns BCP."""
        planes_B3CRR = split_planes(planes_BCRR)
        parts = []
        for index in range(self.count):
            x_XR, y_YR, z_ZR = (getattr(self, f"weights_{index}_{a}").to(planes_BCRR.dtype) for a in range(3))
            # A plane's columns run along its first coordinate, its rows along its second.
            xy = x_XR @ planes_B3CRR[:, 0].transpose(-1, -2) @ y_YR.T
            yz = y_YR @ planes_B3CRR[:, 1].transpose(-1, -2) @ z_ZR.T
            xz = x_XR @ planes_B3CRR[:, 2].transpose(-1, -2) @ z_ZR.T
            total_BCXYZ = xy[..., :, :, None] + yz[..., None, :, :] + xz[..., :, None, :]
            parts.append(total_BCXYZ.flatten(2))
        return torch.cat(parts, dim=2)


def bilinear_weights(coordinates_P: Tensor, resolution: int) -> Tensor:
    """PR matrix of linear interpolation weights at coordinates in [-1, 1] of `resolution` pixels.

    Pixel centres are not aligned to the corners; pixels outside count as zero.
    """
    position_P1 = ((coordinates_P.double().clamp(-1, 1) + 1) * resolution / 2 - 0.5)[:, None]
    distance_PR = (position_P1 - torch.arange(resolution, dtype=torch.float64)).abs()
    return (1.0 - distance_PR).clamp(min=0.0).float()
