"""A wide MLP over very many points, with few passes over memory per layer and direction.

Forwards, a product with its bias and leaky ReLU is one kernel that holds all channels of a block of points. Backwards
the products are the library's, whose dimensions are powers of two here, and one kernel applies the leaky ReLU's slope
in place and adds up the bias' gradient. A last layer of few outputs is multiplied in that kernel, too.

Shape legend: B batch, P points, I input channels, O output channels, G groups of points
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

POINTS, DEPTH, STAGES = 128, 64, 4
"""Points of a program of the product, input channels of one of its steps, and how many of these are under way."""
GROUP, ROWS = 512, 16
"""Points of a program of the slope, and of one of its steps."""
FEW = 4
"""Outputs up to which the last layer is part of the slope's kernel."""
MIN_SIDE = 16
"""Of a block that tensor cores take."""
ALIGNMENT = 8
"""Channels; rows of so many can be read by tensor cores' loads."""


@triton.jit
def _product_kernel(
    x, weight, bias, out, P,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    stride_x: tl.constexpr, stride_b: tl.constexpr, stride_i: tl.constexpr, stride_o: tl.constexpr,
    ACTIVATE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """x BPI times weight BIO plus bias.

    Strides are known to the compiler, which otherwise would not read several channels at once.
    """
    b = tl.program_id(1).to(tl.int64)
    point = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
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
    total += tl.load(bias + o, mask=o_ok, other=0.0).to(tl.float32)[None, :]
    if ACTIVATE:
        total = tl.maximum(total, total * SLOPE)
    at = (b * P + point)[:, None] * OUTPUTS + o[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=p_ok[:, None] & o_ok[None, :])


def product(x_BPI: Tensor, weight_BIO: Tensor, bias_O: Tensor, activate: bool) -> Tensor:
    """The layer's output BPO."""
    batch, points, inputs = x_BPI.shape
    outputs = weight_BIO.shape[2]
    out = torch.empty((batch, points, outputs), device=x_BPI.device, dtype=x_BPI.dtype)
    block_i, block_o = (max(triton.next_power_of_2(side), MIN_SIDE) for side in (inputs, outputs))
    _product_kernel[(cdiv(points, POINTS), batch)](
        x_BPI, weight_BIO, bias_O, out, points, inputs, outputs, x_BPI.stride(1), *weight_BIO.stride(),
        ACTIVATE=activate, BLOCK_P=POINTS, BLOCK_I=min(DEPTH, block_i), BLOCK_O=block_o,
        num_warps=8 if block_o >= 128 else 4, num_stages=STAGES,
    )  # fmt: skip
    return out


@triton.jit
def _slope_kernel(
    grad, weight, hidden, out, sums, P, stride_g, stride_b, stride_i, stride_o,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr,
    GROUP_: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad times the slope of the leaky ReLU whose results are `hidden`, and its sums over a group of points.

    OUTPUTS: grad is that of so many outputs of the next layer, whose weight BIO is given; 0: of `hidden` itself.
    """
    group, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    c_ok = c < CHANNELS
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(0, GROUP_, BLOCK_R):
        point = group * GROUP_ + first + tl.arange(0, BLOCK_R)
        p_ok = point < P
        ok = p_ok[:, None] & c_ok[None, :]
        at = (b * P + point)[:, None] * CHANNELS + c[None, :]
        height = tl.load(hidden + at, mask=ok, other=0.0)
        if OUTPUTS == 0:
            value = tl.load(grad + at, mask=ok, other=0.0).to(tl.float32)
        else:
            value = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
            for o in tl.static_range(OUTPUTS):
                g = tl.load(grad + (b * P + point) * stride_g + o, mask=p_ok, other=0.0).to(tl.float32)
                w = tl.load(weight + b * stride_b + c * stride_i + o * stride_o, mask=c_ok, other=0.0)
                value += g[:, None] * w.to(tl.float32)[None, :]
        value = tl.where(height > 0, value, value * SLOPE)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=ok)
        total += value
    tl.store(sums + (b * tl.num_programs(0) + group) * CHANNELS + c, tl.sum(total, axis=0), mask=c_ok)


def through_slope(grad_BPO: Tensor, weight_BIO: Tensor, hidden_BPI: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of a layer's outputs to that of the products it was made from (BPI), and its sum over points."""
    batch, points, channels = hidden_BPI.shape
    outputs = weight_BIO.shape[2]
    few = outputs <= FEW
    grad = grad_BPO if few else torch.bmm(grad_BPO[..., :outputs], weight_BIO.transpose(1, 2))
    out = torch.empty_like(hidden_BPI) if few else grad
    groups = cdiv(points, GROUP)
    sums_BGI = torch.empty((batch, groups, channels), device=out.device, dtype=torch.float32)
    _slope_kernel[(groups, batch)](
        grad, weight_BIO, hidden_BPI, out, sums_BGI, points, grad.stride(1), *weight_BIO.stride(),
        CHANNELS=channels, OUTPUTS=outputs if few else 0,
        GROUP_=GROUP, BLOCK_R=ROWS, BLOCK_C=triton.next_power_of_2(channels), num_warps=8,
    )  # fmt: skip
    return out, sums_BGI.sum(dim=(0, 1)).to(out.dtype)


class WideLayers(Function):
    """Points BPI through layers with leaky ReLU and a last one without: (x, biases O..., weights BIO...) -> BPO."""

    @staticmethod
    def forward(ctx: Any, x_BPI: Tensor, count: int, *parameters: Tensor) -> Tensor:
        biases, weights = parameters[:count], parameters[count:]
        values = [x_BPI.contiguous()]
        for index in range(count):
            values.append(product(values[-1], weights[index], biases[index], index < count - 1))
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
        bias_grads[-1] = grad_BPO.sum(dim=(0, 1), dtype=torch.float32).to(grad_BPO.dtype)
        grad = F.pad(grad_BPO, (0, -grad_BPO.shape[2] % ALIGNMENT)).contiguous()
        for index in reversed(range(count)):
            weight = weights[index]
            grad_weight = weight_gradient(values[index], grad)
            weight_grads[index] = grad_weight[..., : weight.shape[2]].to(weight.dtype)
            if index:
                grad, bias_grads[index - 1] = through_slope(grad, weight, values[index])
        wanted = ctx.needs_input_grad[0]
        return (
            torch.bmm(grad, weights[0].transpose(1, 2)) if wanted else None,
            None,
            *bias_grads,
            *weight_grads,
        )
