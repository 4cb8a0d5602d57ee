"""Clip-space positions of packed vertices, a matrix for each shape.

Shape legend: B shapes, V packed vertices of all
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import cdiv

BLOCK = 256


@triton.jit
def _matrices_of(matrices_B44, firsts_B, vertex, B):
    """Where the matrix of each vertex' shape begins: the last shape that begins at or before the vertex."""
    shape = tl.zeros_like(vertex)
    for k in range(1, B):
        shape += (vertex >= tl.load(firsts_B + k)).to(tl.int32)
    return matrices_B44 + shape * 16


@triton.jit(do_not_specialize=["V"])
def _clip_kernel(vertices_V3, matrices_B44, firsts_B, clip_V4, V, B, BLOCK_: tl.constexpr):
    vertex = tl.program_id(0) * BLOCK_ + tl.arange(0, BLOCK_)
    ok = vertex < V
    matrix = _matrices_of(matrices_B44, firsts_B, vertex, B)
    x = tl.load(vertices_V3 + vertex * 3, mask=ok, other=0.0)
    y = tl.load(vertices_V3 + vertex * 3 + 1, mask=ok, other=0.0)
    z = tl.load(vertices_V3 + vertex * 3 + 2, mask=ok, other=0.0)
    for row in tl.static_range(4):
        value = tl.load(matrix + row * 4) * x + tl.load(matrix + row * 4 + 1) * y
        value += tl.load(matrix + row * 4 + 2) * z + tl.load(matrix + row * 4 + 3)
        tl.store(clip_V4 + vertex * 4 + row, value, mask=ok)


@triton.jit(do_not_specialize=["V"])
def _clip_backward_kernel(grad_V4, matrices_B44, firsts_B, grad_V3, V, B, BLOCK_: tl.constexpr):
    vertex = tl.program_id(0) * BLOCK_ + tl.arange(0, BLOCK_)
    ok = vertex < V
    matrix = _matrices_of(matrices_B44, firsts_B, vertex, B)
    for column in tl.static_range(3):
        value = tl.zeros((BLOCK_,), tl.float32)
        for row in tl.static_range(4):
            grad = tl.load(grad_V4 + vertex * 4 + row, mask=ok, other=0.0)
            value += tl.load(matrix + row * 4 + column) * grad
        tl.store(grad_V3 + vertex * 3 + column, value, mask=ok)


class ClipPositions(Function):
    """V4 from vertices_V3 (float32), matrices_B44 and, on the device as they are, firsts_B: int32, the number of each
    shape's first vertex. Gradients flow into the vertices."""

    @staticmethod
    def forward(ctx: Any, vertices_V3: Tensor, matrices_B44: Tensor, firsts_B: Tensor) -> Tensor:
        vertices_V3, matrices_B44 = vertices_V3.contiguous(), matrices_B44.contiguous()
        clip_V4 = vertices_V3.new_empty(len(vertices_V3), 4)
        if len(vertices_V3):
            _clip_kernel[(cdiv(len(vertices_V3), BLOCK),)](
                vertices_V3,
                matrices_B44,
                firsts_B,
                clip_V4,
                len(vertices_V3),
                len(matrices_B44),
                BLOCK_=BLOCK,
            )
        ctx.save_for_backward(matrices_B44, firsts_B)
        return clip_V4

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_V4: Tensor):
        matrices_B44, firsts_B = ctx.saved_tensors
        grad_V4 = grad_V4.contiguous()
        grad_V3 = grad_V4.new_empty(len(grad_V4), 3)
        if len(grad_V4):
            _clip_backward_kernel[(cdiv(len(grad_V4), BLOCK),)](
                grad_V4, matrices_B44, firsts_B, grad_V3, len(grad_V4), len(matrices_B44), BLOCK_=BLOCK
            )
        return grad_V3, None, None
