"""A wide modulated MLP over very many points, arranged for memory traffic.

At 188 000 grid vertices and 256 channels the activations, not the products, decide time and memory. So there is
one batched matrix product and one in-place leaky ReLU per layer, and nothing else touches the activations:

- the bias is a column of the weight: the points carry one constant channel, kept by every layer;
- the gain of the leaky ReLU is in the weight, since leaky_relu(g x) = g leaky_relu(x) for g > 0;
- each layer's output, needed as the next one's input, is also what the leaky ReLU's gradient is computed from.

Channels come last and are padded to a multiple of 8, the alignment that tensor cores need.

Shape legend: B batch, P points, I input channels, O output channels, D w width, L layers (copies of w)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.networks.layers import ModulatedLinear
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.ops.modulated_conv import modulated_linear_weight

ALIGNMENT = 8


def padded(channels: int) -> int:
    """Channels with the constant one, rounded up to the alignment."""
    return -(-(channels + 1) // ALIGNMENT) * ALIGNMENT


def with_constant(parts_BPC: Sequence[Tensor]) -> Tensor:
    """Concatenates channels, then a constant 1 and zeros up to the alignment."""
    first = parts_BPC[0]
    channels = sum(part.shape[-1] for part in parts_BPC)
    tail_C = torch.zeros(padded(channels) - channels, dtype=first.dtype, device=first.device)
    # An assignment by index would copy the number from the host, which a CUDA graph cannot record.
    tail_C[:1].fill_(1.0)
    return torch.cat([*parts_BPC, tail_C.expand(*first.shape[:-1], -1)], dim=-1)


def layer_matrix(layer: ModulatedLinear, w_BD: Tensor) -> Tensor:
    """A layer's modulated weight, bias, gain and constant channel as one matrix; B(padded I)(padded O)."""
    style_BI = layer.affine(w_BD)
    weight_BOI = modulated_linear_weight(layer.weight, style_BI)
    outputs, inputs = layer.weight.shape
    bias_BO1 = layer.bias.expand(len(w_BD), -1)[:, :, None]
    gain = LEAKY_GAIN if layer.activate else 1.0
    matrix_BOI = F.pad(
        torch.cat([weight_BOI, bias_BO1], dim=2) * gain,
        (0, padded(inputs) - inputs - 1, 0, padded(outputs) - outputs),
    )
    constant_OI = torch.zeros_like(matrix_BOI[0])
    constant_OI[outputs, inputs].fill_(1.0)  # leaky_relu(1) = 1: the constant stays
    return (matrix_BOI + constant_OI).transpose(1, 2)


def wide_layers(
    in_features: int, width: int, hidden_layers: int, out_features: int, w_dim: int
) -> nn.ModuleList:
    """The parameters that `wide_mlp` uses."""
    sizes = [in_features] + [width] * hidden_layers + [out_features]
    return nn.ModuleList(
        ModulatedLinear(sizes[i], sizes[i + 1], w_dim, activate=i < hidden_layers)
        for i in range(hidden_layers + 1)
    )


def wide_mlp(
    layers: Sequence[ModulatedLinear], points_BPI: Tensor, ws_BLD: Tensor, half: HalfDomain
) -> Tensor:
    """The layers on points that `with_constant` made, in the domain `half`; returns BPO, still in it."""
    x_BPI = points_BPI
    for layer, w_BD in zip(layers, ws_BLD.unbind(dim=1), strict=True):
        x_BPI = torch.bmm(x_BPI, half.enter(layer_matrix(layer, w_BD)))
        if layer.activate:
            x_BPI = F.leaky_relu_(x_BPI, LEAKY_SLOPE)
    return x_BPI[..., : layers[-1].weight.shape[0]]


class WideMLP(nn.Module):
    """`hidden_layers` modulated layers of width `width`, then a linear modulated layer, by `wide_mlp`."""

    def __init__(
        self, in_features: int, width: int, hidden_layers: int, out_features: int, w_dim: int
    ) -> None:
        super().__init__()
        self.layers = wide_layers(in_features, width, hidden_layers, out_features, w_dim)

    @property
    def num_ws(self) -> int:
        return len(self.layers)

    def forward(self, points_BPI: Tensor, ws_BLD: Tensor, half: HalfDomain) -> Tensor:
        return wide_mlp(self.layers, points_BPI, ws_BLD, half)
