"""A wide modulated MLP over very many points, arranged for memory traffic.

At 188 000 grid vertices and 256 channels the activations, not the products, decide time and memory. So there is
one batched matrix product and one in-place leaky ReLU per layer, and nothing else touches the activations:

- the bias is a column of the weight: the points carry one constant channel, kept by every layer;
- the gain of the leaky ReLU is in the weight, since leaky_relu(g x) = g leaky_relu(x) for g > 0;
- each layer's output, needed as the next one's input, is also what the leaky ReLU's gradient is computed from.

Channels come last and are padded to a multiple of 8, the alignment that tensor cores need.

Shape legend: B batch, P points, C chunks of points of all shapes, I input channels, O output channels, D w width,
L layers (copies of w)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.networks.layers import ModulatedLinear
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.ops.modulated_conv import modulated_linear_weight

ALIGNMENT = 8
MAX_CHUNKS = 16
"""Of a sum over points. A grid of resolution 90 has 13 (tetrahedra: 46^3 + 45^3 vertices) or 15 (cubes: 90^3)."""


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


class PointProduct(Function):
    """points BPI times weight BIO, BPO. As torch.bmm, but the weight's gradient is a sum over chunks of points.

    One product per shape would sum over all points in a handful of blocks, and leave most of a GPU idle.
    """

    @staticmethod
    def forward(ctx: Any, points_BPI: Tensor, weight_BIO: Tensor) -> Tensor:
        ctx.save_for_backward(points_BPI, weight_BIO)
        return torch.bmm(points_BPI, weight_BIO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BPO: Tensor) -> tuple[Tensor | None, Tensor]:
        points_BPI, weight_BIO = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        grad_points_BPI = torch.bmm(grad_BPO, weight_BIO.transpose(1, 2)) if wanted else None
        batch, chunks = len(points_BPI), chunk_count(points_BPI.shape[1])
        points_CPI, grad_CPO = (
            x.unflatten(1, (chunks, -1)).flatten(0, 1) for x in (points_BPI, grad_BPO.contiguous())
        )
        partial_CIO = torch.bmm(points_CPI.transpose(1, 2), grad_CPO)
        grad_weight_BIO = partial_CIO.unflatten(0, (batch, chunks)).sum(dim=1, dtype=torch.float32)
        return grad_points_BPI, grad_weight_BIO.to(weight_BIO.dtype)


def chunk_count(points: int) -> int:
    """The most chunks of equal size, up to MAX_CHUNKS."""
    return max((n for n in range(1, MAX_CHUNKS + 1) if points % n == 0), default=1)


def wide_mlp(
    layers: Sequence[ModulatedLinear], points_BPI: Tensor, ws_BLD: Tensor, half: HalfDomain
) -> Tensor:
    """The layers on points that `with_constant` made, in the domain `half`; returns BPO, still in it."""
    x_BPI = points_BPI
    for layer, w_BD in zip(layers, ws_BLD.unbind(dim=1), strict=True):
        x_BPI = PointProduct.apply(x_BPI, half.enter(layer_matrix(layer, w_BD)))
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
