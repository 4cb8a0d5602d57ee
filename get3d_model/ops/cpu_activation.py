"""Bias, leaky ReLU, gain and bound in one pass over memory, and their derivative in another, on the CPU.

PyTorch needs a pass for each, and keeps what lies between them for the backward pass: in a training step on two cores
they take longer than half of what the convolutions take. Same arithmetic in the same order: the same bits.

Shape legend: R rows (images times channels), N values of a row, C channels
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from get3d_model.jit import kernel
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.parallel_for import parallel_for

SMALLEST = 1 << 16
"""Values below which PyTorch's own operations are as fast."""
ZERO, SLOPE, GAIN = np.float32(0.0), np.float32(LEAKY_SLOPE), np.float32(LEAKY_GAIN)


@kernel
def _activate(first, last, x_RN, bias_C, out_RN, zero, slope, gain, bound):
    channels, count = bias_C.shape[0], x_RN.shape[1]
    for r in range(first, last):
        bias = bias_C[r % channels]
        for n in range(count):
            value = x_RN[r, n] + bias
            value = (value if value > zero else value * slope) * gain
            value = -bound if value < -bound else value
            out_RN[r, n] = bound if value > bound else value


@kernel
def _times_slope(first, last, x_RN, bias_C, grad_RN, out_RN, zero, slope, gain, bound, slope_first):
    """slope_first: of a second derivative; the order decides how products are rounded."""
    channels, count = bias_C.shape[0], x_RN.shape[1]
    free = bound == np.inf
    other, one = (slope, gain) if slope_first else (gain, slope)
    for r in range(first, last):
        bias = bias_C[r % channels]
        for n in range(count):
            value = x_RN[r, n] + bias
            positive = value > zero
            value = (value if positive else value * slope) * gain
            grad = grad_RN[r, n]
            grad = grad * gain if positive else grad * other * one
            out_RN[r, n] = grad if free or -bound <= value <= bound else zero


def takes(x: Tensor, bias_C: Tensor, channel_dim: int) -> bool:
    """Whether the kernels take it: contiguous float32 on the CPU, large, and with gradients (what is exported has none)."""
    return (
        x.device.type == "cpu" and channel_dim == 1 and x.ndim > 2 and x.numel() >= SMALLEST
        and x.dtype == bias_C.dtype == torch.float32 and x.is_contiguous()
        and torch.is_grad_enabled() and (x.requires_grad or bias_C.requires_grad)
    )  # fmt: skip


def _rows(x: Tensor) -> np.ndarray:
    return x.detach().view(x.shape[0] * x.shape[1], -1).numpy()


def _bound(clamp: float | None) -> np.float32:
    return np.float32(np.inf if clamp is None else clamp * LEAKY_GAIN)


class BiasLeakyRelu(Function):
    """clamp(leaky_relu(x + bias) * gain), channels in dimension 1; twice differentiable in x."""

    @staticmethod
    def forward(ctx, x: Tensor, bias_C: Tensor, clamp: float | None) -> Tensor:
        out = torch.empty_like(x)
        rows = _rows(x)
        parallel_for(
            _activate, len(rows), torch.get_num_threads(),
            rows, bias_C.detach().numpy(), _rows(out), ZERO, SLOPE, GAIN, _bound(clamp),
        )  # fmt: skip
        ctx.save_for_backward(x, bias_C)
        ctx.clamp = clamp
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, bias_C = ctx.saved_tensors
        grad_x = _TimesSlope.apply(grad, x, bias_C, ctx.clamp, False)
        grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_bias = grad_x.sum(dim=[d for d in range(grad_x.ndim) if d != 1])
        return (grad_x if ctx.needs_input_grad[0] else None), grad_bias, None


class _TimesSlope(Function):
    """grad times the activation's derivative at x + bias, which is piecewise constant: differentiable in grad alone."""

    @staticmethod
    def forward(
        ctx, grad: Tensor, x: Tensor, bias_C: Tensor, clamp: float | None, slope_first: bool
    ) -> Tensor:
        grad = grad.contiguous()
        out = torch.empty_like(x)
        rows = _rows(x)
        parallel_for(
            _times_slope, len(rows), torch.get_num_threads(),
            rows, bias_C.detach().numpy(), _rows(grad), _rows(out), ZERO, SLOPE, GAIN, _bound(clamp), slope_first,
        )  # fmt: skip
        ctx.save_for_backward(x, bias_C)
        ctx.clamp, ctx.slope_first = clamp, slope_first
        return out

    @staticmethod
    def backward(ctx, grad_grad: Tensor):
        x, bias_C = ctx.saved_tensors
        return _TimesSlope.apply(grad_grad, x, bias_C, ctx.clamp, not ctx.slope_first), None, None, None, None
