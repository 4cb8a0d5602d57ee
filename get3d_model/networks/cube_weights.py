"""FlexiCubes weights of every cube of a grid, from the features at its corners.

Source: GET3D (Gao et al. 2022) with FlexiCubes (Shen et al. 2023): the features of a cube's 8 corners, one after
the other, go through a modulated MLP to 21 weights, times 0.1. Parameter names are those of the published
checkpoints (`mlp_synthesis_weight`).

The first layer is linear in the concatenated features, so it is the sum of one product per corner over the grid
vertices. The concatenation, eight times the features of all vertices, never exists.

Shape legend: B batch, C features, N grid vertices, Q cubes, O output channels, X Y Z vertices along each axis,
L layers (copies of w), D w width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from get3d_model.isosurface.cube_grid import CORNER_OFFSETS, CubeGrid
from get3d_model.isosurface.flexicubes import NUM_WEIGHTS
from get3d_model.networks.fields import ModulatedMLP
from get3d_model.ops.activation import bias_leaky_relu
from get3d_model.ops.modulated_conv import demodulation

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

    def forward(self, features_BCN: Tensor, ws_BLD: Tensor) -> Tensor:
        """Returns BQ21."""
        first_BD, *rest = ws_BLD.unbind(dim=1)
        x_BOQ = self._first_layer(features_BCN, first_BD)
        for layer, w_BD in zip(self.layers[1:], rest, strict=True):
            x_BOQ = layer(x_BOQ, w_BD)
        return x_BOQ.transpose(1, 2) * WEIGHT_SCALE

    def _first_layer(self, features_BCN: Tensor, w_BD: Tensor) -> Tensor:
        layer = self.layers[0]
        style_BI = layer.affine(w_BD)
        weight_BOI = layer.weight * style_BI[:, None] * demodulation(layer.weight, style_BI)[:, :, None]
        weight_BO8C = weight_BOI.unflatten(2, (8, features_BCN.shape[1])).to(features_BCN.dtype)
        total = self.corner_values(torch.bmm(weight_BO8C[:, :, 0], features_BCN), 0).contiguous()
        for corner in range(1, 8):
            total += self.corner_values(torch.bmm(weight_BO8C[:, :, corner], features_BCN), corner)
        return bias_leaky_relu(total.flatten(2), layer.bias, channel_dim=1)
