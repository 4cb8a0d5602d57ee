"""A wide modulated MLP over very many points, arranged for memory traffic.

At 188 000 grid vertices and 256 channels the activations, not the products, decide time and memory. So there is
one batched matrix product and one in-place leaky ReLU per layer, and nothing else touches the activations:

- the bias is a column of the weight: the points carry one constant channel, kept by every layer;
- the gain of the leaky ReLU is in the weight, since leaky_relu(g x) = g leaky_relu(x) for g > 0;
- each layer's output, needed as the next one's input, is also what the leaky ReLU's gradient is computed from.

Channels come last and are padded to a multiple of 8, the alignment that tensor cores need. On a GPU, in half
precision, kernels put bias and leaky ReLU into the products themselves.

Shape legend: B batch, P points, I input channels, O output channels, D w width, L layers (copies of w)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from get3d_model.networks.layers import ModulatedLinear
from get3d_model.ops.dispatch import is_fused
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.ops.modulated_conv import modulated_linear_weight
from get3d_model.ops.point_product import PointProduct

ALIGNMENT = 8


def padded(channels: int) -> int:
    """Channels with the constant one, rounded up to the alignment."""
    return -(-(channels + 1) // ALIGNMENT) * ALIGNMENT


def fixed_tail(fixed_PF: Tensor, channels: int) -> Tensor:
    """What stands behind `channels` channels of every point: fixed ones, a constant 1, zeros up to the alignment."""
    used = channels + fixed_PF.shape[1]
    return torch.cat([fixed_PF, F.pad(torch.ones_like(fixed_PF[:, :1]), (0, padded(used) - used - 1))], dim=1)


class PointRows(Function):
    """(fixed_tail PT, features BPC of some points, of the next ones, ...) -> all points' rows BP(C+T).

    As two concatenations, with one pass over memory.
    """

    @staticmethod
    def forward(ctx: Any, tail_PT: Tensor, *parts_BPC: Tensor) -> Tensor:
        first = parts_BPC[0]
        ctx.sizes, ctx.channels = [part.shape[1] for part in parts_BPC], first.shape[2]
        rows = first.new_empty(len(first), sum(ctx.sizes), ctx.channels + tail_PT.shape[1])
        for target, part in zip(PointRows._features(ctx, rows), parts_BPC, strict=True):
            target.copy_(part)
        rows[..., ctx.channels :] = tail_PT
        return rows

    @staticmethod
    def backward(ctx: Any, grad_BPI: Tensor):
        return None, *PointRows._features(ctx, grad_BPI)

    @staticmethod
    def _features(ctx: Any, rows_BPI: Tensor) -> tuple[Tensor, ...]:
        return rows_BPI[..., : ctx.channels].split(ctx.sizes, dim=1)


def layer_matrix(layer: ModulatedLinear, w_BD: Tensor, at_end: int) -> Tensor:
    """A layer's modulated weight, bias, gain and constant channel as one matrix; B(padded I)(padded O)."""
    style_BI = layer.affine(w_BD)
    weight_BOI = modulated_linear_weight(layer.weight, style_BI).roll(-at_end, dims=2)
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
    layers: Sequence[ModulatedLinear], points_BPI: Tensor, ws_BLD: Tensor, half: HalfDomain, at_end: int
) -> Tensor:
    """The layers on points that `PointRows` made, in the domain `half`; returns BPO, still in it.

    at_end: how many of the first layer's leading inputs are the points' fixed channels, which stand at the end.
    """
    if is_fused(points_BPI) and points_BPI.dtype != torch.float32:
        return _fused(layers, points_BPI, ws_BLD, half, at_end)
    x_BPI = points_BPI
    for layer, w_BD in zip(layers, ws_BLD.unbind(dim=1), strict=True):
        x_BPI = PointProduct.apply(x_BPI, half.enter(layer_matrix(layer, w_BD, at_end)))
        at_end = 0
        if layer.activate:
            x_BPI = F.leaky_relu_(x_BPI, LEAKY_SLOPE)
    return x_BPI[..., : layers[-1].weight.shape[0]]


def _fused(
    layers: Sequence[ModulatedLinear], points_BPI: Tensor, ws_BLD: Tensor, half: HalfDomain, at_end: int
) -> Tensor:
    from get3d_model.ops.fused.wide_mlp import WideLayers

    weights, biases = [], []
    for layer, w_BD in zip(layers, ws_BLD.unbind(dim=1), strict=True):
        gain = LEAKY_GAIN if layer.activate else 1.0
        weight_BOI = layer.point_weight(w_BD) * gain
        if not weights:
            # The constant channel is not needed here, and neither is what pads it.
            weight_BOI = F.pad(
                weight_BOI.roll(-at_end, dims=2), (0, points_BPI.shape[2] - weight_BOI.shape[2])
            )
        weights.append(half.enter(weight_BOI).transpose(1, 2))
        biases.append(half.enter(layer.bias * gain))
    return WideLayers.apply(points_BPI, len(layers), *biases, *weights)


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

    def forward(self, points_BPI: Tensor, ws_BLD: Tensor, half: HalfDomain, at_end: int) -> Tensor:
        return wide_mlp(self.layers, points_BPI, ws_BLD, half, at_end)
