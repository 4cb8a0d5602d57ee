"""FlexiCubes weights of every cube of a grid, from the features at its corners.

Source: GET3D (Gao et al. 2022) with FlexiCubes (Shen et al. 2023): the features of a cube's 8 corners, one after
the other, go through a modulated MLP to 21 weights, times 0.1. Parameter names are those of the published
checkpoints (`mlp_synthesis_weight`).

The first layer is linear in the concatenated features, so it is the sum of one product per corner. The
concatenation, eight times the features of all vertices, never exists. On a GPU a kernel does the rest.

Shape legend: B batch, C features, N grid vertices, Q cubes, O output channels, X Y Z vertices along each axis,
R S cubes along a plane's axes, P its positions, M hidden width, I input channels,
L layers (copies of w), D w width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.isosurface.cube_grid import CORNER_OFFSETS, CubeGrid
from get3d_model.isosurface.flexicubes import NUM_WEIGHTS
from get3d_model.networks.fields import ModulatedMLP
from get3d_model.ops.dispatch import is_fused
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.ops.triplane import LatticeSamples

WEIGHT_SCALE = 0.1


class CornerSlices(nn.Module):
    """Values at corner k of every cube of a lattice: a shifted view of the values at its vertices."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, values_BON: Tensor, corner: int) -> Tensor:
        """Returns BOQ's elements as BO(X-1)(Y-1)(Z-1), not contiguous."""
        values = values_BON.unflatten(2, self.sizes)
        for axis, (offset, size) in enumerate(zip(CORNER_OFFSETS[corner].tolist(), self.sizes, strict=True)):
            values = values.narrow(2 + axis, offset, size - 1)
        return values


class CornerGather(nn.Module):
    """The same for vertices and cubes in any order."""

    def __init__(self, cubes_Q8: Tensor) -> None:
        super().__init__()
        self.register_buffer("cubes_Q8", cubes_Q8, persistent=False)

    def forward(self, values_BON: Tensor, corner: int) -> Tensor:
        """Returns BOQ."""
        return values_BON.index_select(2, self.cubes_Q8[:, corner])


def corner_values(grid: CubeGrid) -> nn.Module:
    """The cheapest way to read a grid's corners."""
    if len(grid.lattices) == 1:
        x, y, z = grid.lattices[0]
        return CornerSlices((len(x), len(y), len(z)))
    return CornerGather(grid.cubes_Q8)


class CubeWeightMLP(ModulatedMLP):
    """Features at the grid vertices -> raw weights of the cubes."""

    def __init__(self, features: int, width: int, hidden_layers: int, w_dim: int, grid: CubeGrid) -> None:
        super().__init__(8 * features, width, NUM_WEIGHTS, hidden_layers, w_dim)
        self.corner_values = corner_values(grid)

    def forward(self, features: Tensor | LatticeSamples, ws_BLD: Tensor) -> Tensor:
        """features: BCN, or the plane samples of a grid of one lattice. Returns BQ21."""
        first_BD, *rest = ws_BLD.unbind(dim=1)
        layer = self.layers[0]
        weight_BO8C = layer.point_weight(first_BD).unflatten(2, (8, -1)) * LEAKY_GAIN
        bias_O = layer.bias * LEAKY_GAIN
        if isinstance(features, LatticeSamples):
            planes = plane_products(features, weight_BO8C, bias_O)
            if self._is_fused(features):
                return self._fused(planes, rest[0])
            x_BOQ = sum_at_cubes(planes)
        else:
            x_BOQ = self._corners_to_cubes(features, weight_BO8C) + bias_O[:, None]
        # The gain is in weight and bias: leaky_relu(g x) = g leaky_relu(x) for g > 0.
        x_BOQ = F.leaky_relu_(x_BOQ, LEAKY_SLOPE)
        for layer, w_BD in zip(self.layers[1:], rest, strict=True):
            x_BOQ = layer(x_BOQ, w_BD)
        return x_BOQ.transpose(1, 2) * WEIGHT_SCALE

    def _is_fused(self, samples: LatticeSamples) -> bool:
        """Whether a kernel takes over after the planes' products: one hidden layer, as wide as a power of two."""
        width = self.layers[0].weight.shape[0]
        return (
            is_fused(samples.samples_BQC)
            and len(set(samples.shapes[0])) == 1
            and len(self.layers) == 2
            and width >= 16
            and width & (width - 1) == 0
        )

    def _fused(self, planes: list[Tensor], w_BD: Tensor) -> Tensor:
        from get3d_model.ops.fused.cube_weights import CubeWeights

        layer = self.layers[1]
        weight_BOM, bias_O = layer.point_weight(w_BD) * WEIGHT_SCALE, layer.bias * WEIGHT_SCALE
        planes_BPM = torch.cat([plane.flatten(1, 2) for plane in planes], dim=1)
        return CubeWeights.apply(planes_BPM, weight_BOM, bias_O, planes[0].shape[1])

    def _corners_to_cubes(self, features_BCN: Tensor, weight_BO8C: Tensor) -> Tensor:
        """The sum over corners of weight times features, BOQ."""
        total = self.corner_values(torch.bmm(weight_BO8C[:, :, 0], features_BCN), 0).contiguous()
        for corner in range(1, 8):
            total += self.corner_values(torch.bmm(weight_BO8C[:, :, corner], features_BCN), corner)
        return total.flatten(2)


def plane_products(samples: LatticeSamples, weight_BO8C: Tensor, bias_O: Tensor) -> list[Tensor]:
    """BRSO of plane (x, y), (y, z), (x, z), whose sum at a cube is that over its corners of weight times features,
    and the bias: no features at the vertices are needed.

    A vertex's features are a sum over three planes, so the sum over corners is, too: each plane gives one product
    over its own n^2 positions, whose result is shared by all cubes along the plane's normal.
    """
    shapes = samples.shapes
    if len(shapes) != 1:
        raise ValueError(f"the vertices of a cube grid are one lattice, not {len(shapes)}")
    nx, ny, nz = shapes[0]
    # Corner k lies at (k & 1, k >> 1 & 1, k >> 2 & 1).
    weight_BOzyxC = weight_BO8C.unflatten(2, (2, 2, 2))
    products, first = [], 0
    for normal, rows, columns in ((2, nx, ny), (4, ny, nz), (3, nx, nz)):
        block_BRSC = samples.samples_BQC[:, first : first + rows * columns].unflatten(1, (rows, columns))
        first += rows * columns
        # Left of the corner's offsets along both axes of the plane: the later axis, then the earlier one.
        weight_BO4C = weight_BOzyxC.sum(dim=normal).flatten(2, 3)
        shifted = [block_BRSC[:, r : r + rows - 1, s : s + columns - 1] for s in (0, 1) for r in (0, 1)]
        corners_BPI = torch.cat(shifted, dim=3).flatten(1, 2)
        product_BPO = torch.bmm(corners_BPI, weight_BO4C.flatten(2).transpose(1, 2))
        products.append(product_BPO.unflatten(1, (rows - 1, columns - 1)))
    products[0] = products[0] + bias_O
    return products


def sum_at_cubes(planes: list[Tensor]) -> Tensor:
    """BOQ: the sum of the three planes' rows at every cube."""
    xy, yz, xz = (plane.permute(0, 3, 1, 2) for plane in planes)
    return (xy[..., :, :, None] + yz[..., None, :, :] + xz[..., :, None, :]).flatten(2)
