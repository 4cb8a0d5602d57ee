"""Demodulation: the squared weights summed over their taps, then 1 / L2 norm of every modulated filter.

Shape legend: B batch, I input channels, O output channels, T taps of a filter, N pairs of output and input channel
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import cdiv
from get3d_model.ops.fused.few_rows import times_weight

PAIRS = 128


@triton.jit
def _energy_kernel(weight, out, N, TAPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.arange(0, BLOCK_T)
    ok = (n < N)[:, None] & (t < TAPS)[None, :]
    value = tl.load(weight + n[:, None] * TAPS + t[None, :], mask=ok, other=0.0)
    tl.store(out + n, tl.sum(value * value, axis=1), mask=n < N)


@triton.jit
def _weight_gradient_kernel(
    grad, scale, style, weight, out, batch, outputs, inputs, stride_s, factor,
    TAPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """out OIT = factor * weight * sum over B of (gradient of 1 / sqrt, times grad BO) * style BI^2, every pair once."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.arange(0, BLOCK_T)
    n_ok = n < outputs * inputs
    o, i = n // inputs, n % inputs
    total = tl.zeros((BLOCK_N,), tl.float32)
    for b in range(batch):
        root = tl.load(scale + b * outputs + o, mask=n_ok, other=0.0)
        g = tl.load(grad + b * outputs + o, mask=n_ok, other=0.0) * (-0.5 * root * root * root)
        s = tl.load(style + b * stride_s + i, mask=n_ok, other=0.0)
        total += g * s * s
    ok = n_ok[:, None] & (t < TAPS)[None, :]
    at = n[:, None] * TAPS + t[None, :]
    tl.store(out + at, tl.load(weight + at, mask=ok, other=0.0) * (total * factor)[:, None], mask=ok)


class Demodulation(Function):
    """1 / sqrt(sum over I and taps of (gain * weight OI... * style BI)^2 + eps), BO; all float32, the weight contiguous."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, style_BI: Tensor, gain: float, eps: float) -> Tensor:
        outputs, inputs = weight.shape[:2]
        taps = weight[0, 0].numel()
        energy_OI = weight.new_empty(outputs, inputs)
        _energy_kernel[(cdiv(outputs * inputs, PAIRS),)](
            weight, energy_OI, outputs * inputs, TAPS=taps, BLOCK_N=PAIRS, BLOCK_T=triton.next_power_of_2(taps),
            num_warps=4,
        )  # fmt: skip
        scale_BO = style_BI.new_empty(len(style_BI), outputs)
        times_weight(style_BI, energy_OI, scale_BO, "square", "inverse root", gain**2, eps)
        ctx.save_for_backward(weight, style_BI, energy_OI, scale_BO)
        # The squares' derivatives: 2 style, 2 weight.
        ctx.factor = 2.0 * gain**2
        return scale_BO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BO: Tensor):
        weight, style_BI, energy_OI, scale_BO = ctx.saved_tensors
        grad_BO = grad_BO.contiguous()
        grad_weight = grad_style = None
        if ctx.needs_input_grad[0]:
            grad_weight = torch.empty_like(weight)
            outputs, inputs = weight.shape[:2]
            taps = weight[0, 0].numel()
            _weight_gradient_kernel[(cdiv(outputs * inputs, PAIRS),)](
                grad_BO, scale_BO, style_BI, weight, grad_weight, len(grad_BO), outputs, inputs, style_BI.stride(0),
                ctx.factor, TAPS=taps, BLOCK_N=PAIRS, BLOCK_T=triton.next_power_of_2(taps), num_warps=4,
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            grad_style = grad_BO.new_empty(style_BI.shape)
            times_weight(
                grad_BO, energy_OI.T, grad_style, "inverse root", "style", ctx.factor, gate_RI=scale_BO, style_RO=style_BI
            )  # fmt: skip
        return grad_weight, grad_style, None, None
