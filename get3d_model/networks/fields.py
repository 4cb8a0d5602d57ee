"""The fields read from the tri-planes: SDF, deformation and texture, each a modulated MLP.

Source: GET3D (Gao et al. 2022), appendix A.

Shape legend: B batch, P points, C features, D w width, L layers (copies of w)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from get3d_model.networks.layers import ModulatedLinear
from get3d_model.ops.activation import bias_leaky_relu


class ModulatedMLP(nn.Module):
    """`hidden_layers` modulated layers of width `width`, then a linear modulated layer.

    Points are the last dimension: it is how the tri-plane lookup leaves them, and every layer is one batched
    matrix product without a transposition.
    """

    def __init__(
        self, in_features: int, width: int, out_features: int, hidden_layers: int, w_dim: int
    ) -> None:
        super().__init__()
        sizes = [in_features] + [width] * hidden_layers + [out_features]
        self.layers = nn.ModuleList(
            ModulatedLinear(sizes[i], sizes[i + 1], w_dim, activate=i < hidden_layers)
            for i in range(hidden_layers + 1)
        )

    @property
    def num_ws(self) -> int:
        return len(self.layers)

    def point_layers(self, ws_BLD: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(modulated weight BOI, bias O) of every layer, for kernels that evaluate the whole MLP at once."""
        return [
            (layer.point_weight(w_BD), layer.bias)
            for layer, w_BD in zip(self.layers, ws_BLD.unbind(dim=1), strict=True)
        ]

    def forward(self, x_BCP: Tensor, ws_BLD: Tensor) -> Tensor:
        for layer, w_BD in zip(self.layers, ws_BLD.unbind(dim=1), strict=True):
            x_BCP = layer(x_BCP, w_BD)
        return x_BCP


def run_layers(layers: Sequence[tuple[Tensor, Tensor]], x_BIP: Tensor) -> Tensor:
    """The MLP given by `point_layers`: a leaky ReLU after every layer but the last; BOP."""
    for index, (weight_BOI, bias_O) in enumerate(layers):
        x_BIP = torch.bmm(weight_BOI.to(x_BIP.dtype), x_BIP)
        if index < len(layers) - 1:
            x_BIP = bias_leaky_relu(x_BIP, bias_O, channel_dim=1)
        else:
            x_BIP = x_BIP + bias_O.to(x_BIP.dtype)[:, None]
    return x_BIP
