"""Trilinear lookup in feature volumes.

Source: GET3D (Gao et al. 2022), appendix: the 3-D generators' volumes are read trilinearly at the grid vertices.
Corner voxels lie on the corners of [-1, 1]^3.

Shape legend: B batch, C channels, D H W volume size along z, y, x, R volume resolution, P points,
X Y Z lattice size
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sample_volume(volume_BCDHW: Tensor, points_BP3: Tensor) -> Tensor:
    """Features at points (x, y, z) in [-1, 1] (clamped); returns BPC. No gradient flows into the points."""
    points = points_BP3.detach().clamp(-1.0, 1.0).to(volume_BCDHW.dtype)
    features = F.grid_sample(volume_BCDHW, points[:, None, None], mode="bilinear", align_corners=True)
    return features.flatten(2).transpose(1, 2)


class VolumePointLookup(nn.Module):
    """`sample_volume` at a fixed, arbitrary point set."""

    def __init__(self, points_P3: Tensor) -> None:
        super().__init__()
        self.register_buffer("points_P3", points_P3, persistent=False)

    def parts(self, volume_BCDHW: Tensor) -> list[Tensor]:
        """Features at every point; one BPC."""
        return [sample_volume(volume_BCDHW, self.points_P3.expand(volume_BCDHW.shape[0], -1, -1))]


class VolumeLatticeLookup(nn.Module):
    """`sample_volume` at the vertices of axis-aligned rectangular lattices, one after the other.

    Trilinear interpolation on a lattice is separable: one small matrix product with fixed weights per axis. No
    per-point gather in the forward pass, no scatter in the backward pass.
    """

    def __init__(self, lattices: Sequence[tuple[Tensor, Tensor, Tensor]], resolution: int) -> None:
        """lattices: the (x, y, z) coordinates in [-1, 1] of each; points run over z fastest, x slowest."""
        super().__init__()
        self.count = len(lattices)
        for index, coordinates in enumerate(lattices):
            for axis, values in enumerate(coordinates):
                weights = corner_aligned_weights(values, resolution)
                self.register_buffer(f"weights_{index}_{axis}", weights, persistent=False)

    def parts(self, volume_BCDHW: Tensor) -> list[Tensor]:
        """Features at the points of every lattice; BPC each."""
        volume_BXYZC = volume_BCDHW.permute(0, 4, 3, 2, 1).contiguous()
        parts = []
        for index in range(self.count):
            x_XR, y_YR, z_ZR = (
                getattr(self, f"weights_{index}_{axis}").to(volume_BCDHW.dtype) for axis in range(3)
            )
            out = torch.matmul(z_ZR, volume_BXYZC)
            out = torch.matmul(y_YR, out.flatten(3))
            out = torch.matmul(x_XR, out.flatten(2))
            parts.append(out.view(len(volume_BCDHW), -1, volume_BCDHW.shape[1]))
        return parts


def corner_aligned_weights(coordinates_P: Tensor, resolution: int) -> Tensor:
    """PR matrix of linear interpolation weights at coordinates in [-1, 1]; the end voxels lie on -1 and 1."""
    position_P1 = ((coordinates_P.double().clamp(-1, 1) + 1) / 2 * (resolution - 1))[:, None]
    distance_PR = (position_P1 - torch.arange(resolution, dtype=torch.float64)).abs()
    return (1.0 - distance_PR).clamp(min=0.0).float()
