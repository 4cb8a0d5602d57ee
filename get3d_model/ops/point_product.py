"""Products of very many points with small matrices.

Shape legend: B batch, P points, C chunks of points of all shapes, I input channels, O output channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

MAX_CHUNKS = 16
"""Of a sum over points. A grid of resolution 90 has 13 (tetrahedra: 46^3 + 45^3 vertices) or 15 (cubes: 90^3)."""


class PointProduct(Function):
    """points BPI times weight BIO, BPO. As torch.bmm, but the weight's gradient is `weight_gradient`."""

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
        grad_weight_BIO = weight_gradient(points_BPI, grad_BPO.contiguous())
        return grad_points_BPI, grad_weight_BIO.to(weight_BIO.dtype)


def weight_gradient(points_BPI: Tensor, grad_BPO: Tensor) -> Tensor:
    """The sum over points of input times gradient, BIO in float32, as a sum over chunks of points.

    One product per shape would sum over all points in a handful of blocks, and leave most of a GPU idle.
    """
    chunks = chunk_count(points_BPI.shape[1])
    points_CPI, grad_CPO = (x.unflatten(1, (chunks, -1)).flatten(0, 1) for x in (points_BPI, grad_BPO))
    partial_CIO = torch.bmm(points_CPI.transpose(1, 2), grad_CPO)
    return partial_CIO.unflatten(0, (len(points_BPI), chunks)).sum(dim=1, dtype=torch.float32)


def chunk_count(points: int) -> int:
    """The most chunks of equal size, up to MAX_CHUNKS."""
    return max((n for n in range(1, MAX_CHUNKS + 1) if points % n == 0), default=1)
