"""A wide MLP over very many points: one pass over memory per layer and direction.

A product with bias and leaky ReLU, or with the leaky ReLU's slope on the way back, is one kernel that holds all
channels of a block of points: an activation is written once and read once. The weights' gradients are left to the
library's products, whose inner dimension is then a power of two.

Shape legend: B batch, P points, I input channels, O output channels, T blocks of points
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import SLOPE, cdiv
from get3d_model.ops.point_product import weight_gradient

POINTS, DEPTH = 128, 64
"""Points of a program, and input channels of one step of its product."""
MIN_SIDE = 16
"""Of a block that tensor cores take."""
ALIGNMENT = 8

# What happens to a product: nothing more than the bias; also the activation; or the slope of an activation.
LINEAR, ACTIVATED, SLOPED = 0, 1, 2


@triton.jit
def _product_kernel(
    x, weight, bias, hidden, out, sums, P,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    stride_x: tl.constexpr, stride_b: tl.constexpr, stride_i: tl.constexpr, stride_o: tl.constexpr,
    END: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """x BPI times weight BIO. hidden BPO: the activation whose slope is wanted; sums BTO of the results.

    Strides are known to the compiler, which otherwise would not read several channels at once.
    """
    block, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    point = block * BLOCK_P + tl.arange(0, BLOCK_P)
    o = tl.arange(0, BLOCK_O)
    p_ok, o_ok = point < P, o < OUTPUTS
    x += b * P * stride_x
    weight += b * stride_b
    total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for first in range(0, INPUTS, BLOCK_I):
        i = first + tl.arange(0, BLOCK_I)
        i_ok = i < INPUTS
        left = tl.load(
            x + point[:, None] * stride_x + i[None, :], mask=p_ok[:, None] & i_ok[None, :], other=0.0
        )
        right = tl.load(
            weight + i[:, None] * stride_i + o[None, :] * stride_o,
            mask=i_ok[:, None] & o_ok[None, :],
            other=0.0,
        )
        total = tl.dot(left, right, total)
    ok = p_ok[:, None] & o_ok[None, :]
    at = (b * P + point)[:, None] * OUTPUTS + o[None, :]
    if END == 2:
        height = tl.load(hidden + at, mask=ok, other=0.0)
        total = tl.where(height > 0, total, total * SLOPE)
        tl.store(sums + (b * tl.num_programs(0) + block) * OUTPUTS + o, tl.sum(total, axis=0), mask=o_ok)
    else:
        total += tl.load(bias + o, mask=o_ok, other=0.0).to(tl.float32)[None, :]
        if END == 1:
            total = tl.maximum(total, total * SLOPE)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=ok)


def product(
    x_BPI: Tensor,
    weight_BIO: Tensor,
    end: int,
    bias_O: Tensor | None = None,
    hidden_BPO: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(results BPO, their sums over all points O for SLOPED); points' channels lie side by side."""
    batch, points, inputs = x_BPI.shape
    outputs = weight_BIO.shape[2]
    blocks = cdiv(points, POINTS)
    out = torch.empty((batch, points, outputs), device=x_BPI.device, dtype=x_BPI.dtype)
    sums = out
    if end == SLOPED:
        sums = torch.empty((batch, blocks, outputs), device=out.device, dtype=torch.float32)
    block_o = max(triton.next_power_of_2(outputs), MIN_SIDE)
    _product_kernel[(blocks, batch)](
        x_BPI, weight_BIO, out if bias_O is None else bias_O, out if hidden_BPO is None else hidden_BPO, out, sums,
        points, inputs, outputs, x_BPI.stride(1), *weight_BIO.stride(),
        END=end, BLOCK_P=POINTS, BLOCK_I=min(DEPTH, max(triton.next_power_of_2(inputs), MIN_SIDE)), BLOCK_O=block_o,
        num_warps=8 if block_o >= 128 else 4, num_stages=3,
    )  # fmt: skip
    return out, sums.sum(dim=(0, 1)) if end == SLOPED else None


class WideLayers(Function):
    """Points BPI through layers with leaky ReLU and a last one without: (x, biases O..., weights BIO...) -> BPO."""

    @staticmethod
    def forward(ctx: Any, x_BPI: Tensor, count: int, *parameters: Tensor) -> Tensor:
        biases, weights = parameters[:count], parameters[count:]
        values = [x_BPI.contiguous()]
        for index in range(count):
            end = ACTIVATED if index < count - 1 else LINEAR
            values.append(product(values[-1], weights[index], end, biases[index])[0])
            if not any(ctx.needs_input_grad):
                del values[0]
        ctx.save_for_backward(*values[:-1], *weights)
        ctx.count = count
        return values[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BPO: Tensor):
        count = ctx.count
        values, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        bias_grads: list[Any] = [None] * count
        weight_grads: list[Any] = [None] * count
        outputs = grad_BPO.shape[2]
        # Aligned rows, for tensor cores: the last layer has few outputs.
        grad = F.pad(grad_BPO, (0, -outputs % ALIGNMENT)).contiguous()
        bias_grads[-1] = grad_BPO.sum(dim=(0, 1), dtype=torch.float32).to(grad.dtype)
        for index in reversed(range(count)):
            weight = weights[index]
            weight_grads[index] = weight_gradient(values[index], grad)[..., : weight.shape[2]].to(
                weight.dtype
            )
            back = weight.transpose(1, 2)
            if index:
                grad, sums = product(grad[..., : weight.shape[2]], back, SLOPED, hidden_BPO=values[index])
                bias_grads[index - 1] = sums.to(grad.dtype)
            elif ctx.needs_input_grad[0]:
                grad = torch.bmm(grad, back)
            else:
                grad = None
        return grad, None, *bias_grads, *weight_grads
