"""Tri-plane lookup: three axis-aligned feature planes, summed.

Source: EG3D (Chan et al. 2022), section 3.2, as used by GET3D: plane 0 is sampled at (x, y), plane 1 at
(y, z), plane 2 at (x, z); bilinear, zero padding, pixel centres not aligned to the corners.

Shape legend: B batch, C channels of one plane, R plane resolution, P points, Q positions where lattices meet planes,
I O features, X Y Z vertices of a lattice along its axes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.ops.dispatch import is_fused
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE

PLANE_AXES = ((0, 1), (1, 2), (0, 2))
# Lattice points whose features exist at a time on a CPU: they stay in the cache.
POINTS_AT_A_TIME = 4096


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
        self.shapes = tuple(tuple(len(values) for values in coordinates) for coordinates in lattices)
        for index, coordinates in enumerate(lattices):
            for axis, values in enumerate(coordinates):
                weights = bilinear_weights(values, plane_resolution)
                self.register_buffer(f"weights_{index}_{axis}", weights, persistent=False)
        for name, values in plane_positions(lattices, plane_resolution).items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, planes_BCRR: Tensor) -> Tensor | LatticeSamples:
        """Features at every lattice point, BCP; on CUDA, and without gradients, the samples that they are sums of."""
        if is_fused(planes_BCRR) and _power_of_two(planes_BCRR.shape[1] // 3):
            from get3d_model.ops.fused.lattice_fields import SamplePlanes

            samples = SamplePlanes.apply(
                planes_BCRR, self.plane_Q, self.row_Q, self.column_Q, self.upper_weight_Q2
            )
            return LatticeSamples(samples, self.shapes)
        if not torch.is_grad_enabled():
            return LatticeSamples(self._samples(planes_BCRR), self.shapes)
        planes_B3CRR = split_planes(planes_BCRR)
        parts = []
        for index in range(self.count):
            x_XR, y_YR, z_ZR = (getattr(self, f"weights_{index}_{a}").to(planes_BCRR.dtype) for a in range(3))
            # A plane's columns run along its first coordinate, its rows along its second.
            xy = x_XR @ planes_B3CRR[:, 0].transpose(-1, -2) @ y_YR.T
            yz = y_YR @ planes_B3CRR[:, 1].transpose(-1, -2) @ z_ZR.T
            xz = x_XR @ planes_B3CRR[:, 2].transpose(-1, -2) @ z_ZR.T
            parts.append(_sum_of_planes(xy, yz, xz))
        return torch.cat(parts, dim=2)

    def _samples(self, planes_BCRR: Tensor) -> Tensor:
        """BQC, by four gathers. Convolutions on CPUs leave planes with their channels last, as the gathers read them."""
        size = planes_BCRR.shape[-1]
        texels_BMC = split_planes(planes_BCRR).permute(0, 3, 4, 1, 2).flatten(1, 3)
        row_weight_Q, column_weight_Q = self.upper_weight_Q2.to(planes_BCRR.dtype).unbind(dim=1)
        total = None
        for lower in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row_Q, column_Q = self.row_Q.long() + lower[0], self.column_Q.long() + lower[1]
            weight_Q = row_weight_Q if lower[0] else 1.0 - row_weight_Q
            weight_Q = weight_Q * (column_weight_Q if lower[1] else 1.0 - column_weight_Q)
            # Texels outside count as zero: they are read at the border with no weight.
            inside_Q = (row_Q >= 0) & (row_Q < size) & (column_Q >= 0) & (column_Q < size)
            index_Q = (row_Q.clamp(0, size - 1) * size + column_Q.clamp(0, size - 1)) * 3 + self.plane_Q
            tap_BQC = texels_BMC.index_select(1, index_Q) * (weight_Q * inside_Q)[:, None]
            total = tap_BQC if total is None else total + tap_BQC
        return total


@dataclass(frozen=True)
class LatticeSamples:
    """Plane features whose sums are the features at lattice points.

    samples_BQC: lattice after lattice; in each the samples of plane (x, y), (y, z), (x, z), the latter axis
    running fastest. shapes: vertices of each lattice along x, y, z.
    """

    samples_BQC: Tensor
    shapes: tuple[tuple[int, ...], ...]

    def expand(self) -> Tensor:
        """The features at every point, BCP."""
        parts, first = [], 0
        for nx, ny, nz in self.shapes:
            planes = []
            for rows, columns in ((nx, ny), (ny, nz), (nx, nz)):
                block = self.samples_BQC[:, first : first + rows * columns]
                planes.append(block.transpose(1, 2).unflatten(2, (rows, columns)))
                first += rows * columns
            parts.append(_sum_of_planes(*planes))
        return torch.cat(parts, dim=2)

    def can_evaluate(self, *mlps: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Whether `evaluate` takes these MLPs: one hidden layer; on CUDA, widths from 16 on that are powers of two."""
        if not self.samples_BQC.is_cuda:
            return all(len(mlp) == 2 for mlp in mlps)
        return (
            all(len(set(shape)) == 1 for shape in self.shapes)
            and all(len(mlp) == 2 for mlp in mlps)
            and all(n >= 16 and _power_of_two(n) for mlp in mlps for n in mlp[0][0].shape[1:])
        )

    def evaluate(
        self, sdf: Sequence[tuple[Tensor, Tensor]], deform: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """(sdf_BN, deformation_BN3) of two MLPs given as (weight BOI, bias O) layers."""
        if not self.samples_BQC.is_cuda:
            values_BN4 = self._by_slabs(sdf, deform)
            return values_BN4[..., 0], values_BN4[..., 1:]
        from get3d_model.ops.fused.lattice_fields import LatticeFields

        values_BN4 = LatticeFields.apply(
            self.samples_BQC,
            *sdf[0],
            *deform[0],
            torch.cat([sdf[1][0], deform[1][0]], dim=1),
            torch.cat([sdf[1][1], deform[1][1]]),
            tuple(shape[0] for shape in self.shapes),
            "tf32x3",
        )
        return values_BN4[..., 0], values_BN4[..., 1:]

    def _by_slabs(
        self, sdf: Sequence[tuple[Tensor, Tensor]], deform: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """BN4, slab after slab of every lattice. The first layer is linear in the samples, of which there are fewer
        than points; leaky_relu(g x) = g leaky_relu(x) leaves the gain to the second."""
        hidden_BOI = torch.cat([sdf[0][0], deform[0][0]], dim=1)
        hidden_BQO = torch.bmm(self.samples_BQC, hidden_BOI.to(self.samples_BQC.dtype).transpose(1, 2))
        bias_O = torch.cat([sdf[0][1], deform[0][1]])
        blocks = [weight_BOI * LEAKY_GAIN for (weight_BOI, _) in (sdf[1], deform[1])]
        out_BI4 = torch.stack([torch.block_diag(*pair) for pair in zip(*blocks, strict=True)]).transpose(1, 2)
        values, first = [], 0
        for nx, ny, nz in self.shapes:
            planes = []
            for rows, columns in ((nx, ny), (ny, nz), (nx, nz)):
                block_BPO = hidden_BQO[:, first : first + rows * columns]
                planes.append(block_BPO.unflatten(1, (rows, columns)))
                first += rows * columns
            xy, yz, xz = planes[0], planes[1] + bias_O, planes[2]
            step = max(1, POINTS_AT_A_TIME // (ny * nz))
            for start in range(0, nx, step):
                chosen = slice(start, min(start + step, nx))
                x_BXYZO = xy[:, chosen, :, None] + xz[:, chosen, None] + yz[:, None]
                x_BXYZO = F.leaky_relu(x_BXYZO, LEAKY_SLOPE)
                values.append(torch.bmm(x_BXYZO.flatten(1, 3), out_BI4))
        return torch.cat(values, dim=1) + torch.cat([sdf[1][1], deform[1][1]])


def _sum_of_planes(xy_BCXY: Tensor, yz_BCYZ: Tensor, xz_BCXZ: Tensor) -> Tensor:
    """BCP, points over z fastest."""
    return (xy_BCXY[..., :, :, None] + yz_BCYZ[..., None, :, :] + xz_BCXZ[..., :, None, :]).flatten(2)


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def plane_positions(lattices: Sequence[tuple[Tensor, Tensor, Tensor]], resolution: int) -> dict[str, Tensor]:
    """Where lattices meet the planes, in the order of `LatticeSamples`: plane, lower row and column, upper weights."""
    planes, rows, columns, weights = [], [], [], []
    for coordinates in lattices:
        taps = []
        for values in coordinates:
            position = (values.double().clamp(-1, 1) + 1) * resolution / 2 - 0.5
            taps.append((position.floor().int(), (position - position.floor()).float()))
        for plane, (first, second) in enumerate(PLANE_AXES):
            (column, column_weight), (row, row_weight) = taps[first], taps[second]
            shape = (len(column), len(row))
            columns.append(column[:, None].expand(shape).flatten())
            rows.append(row[None].expand(shape).flatten())
            pair = torch.stack([row_weight[None].expand(shape), column_weight[:, None].expand(shape)], dim=-1)
            weights.append(pair.flatten(0, 1))
            planes.append(torch.full((shape[0] * shape[1],), plane, dtype=torch.int32))
    return {
        "plane_Q": torch.cat(planes),
        "row_Q": torch.cat(rows),
        "column_Q": torch.cat(columns),
        "upper_weight_Q2": torch.cat(weights),
    }


def bilinear_weights(coordinates_P: Tensor, resolution: int) -> Tensor:
    """PR matrix of linear interpolation weights at coordinates in [-1, 1] of `resolution` pixels.

    Pixel centres are not aligned to the corners; pixels outside count as zero.
    """
    position_P1 = ((coordinates_P.double().clamp(-1, 1) + 1) * resolution / 2 - 0.5)[:, None]
    distance_PR = (position_P1 - torch.arange(resolution, dtype=torch.float64)).abs()
    return (1.0 - distance_PR).clamp(min=0.0).float()
