"""Separable [1, 3, 3, 1] low-pass of a channels-last image, fused with what stands before and after it.

A program owns a strip of columns and a block of channels and walks down the rows with the last four filtered rows
in registers: every input row is loaded once from memory (the four column taps hit the cache), and there is one
write per output.

Shape legend: B batch, C channels, H W input size, h w output size
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from get3d_model.ops.conv import weight_gradients_wanted
from get3d_model.ops.fused.common import (
    activate,
    activation_slope,
    cdiv,
    channels_last,
    empty_nhwc,
    limit_of,
)

ROWS = 32

# What a tap reads: the image itself; its activation act(x + bias); or a second image times the slope at x + bias.
PLAIN, ACTIVATED, SLOPED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# What is written: the filtered value; times the slope of another image (and its sum); or the synthesis epilogue.
AS_IS, TIMES_SLOPE, EPILOGUE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _tap(
    src, other, base, row, columns, channel, H, W, C, bias, limit, SOURCE: tl.constexpr, C_MASK: tl.constexpr
):
    """One horizontal filter of one row: columns c, c+1, c+2, c+3 weighted 1, 3, 3, 1."""
    total = tl.zeros((columns.shape[0], channel.shape[0]), tl.float32)
    row_ok = (row >= 0) & (row < H)
    for tap in tl.static_range(4):
        column = columns + tap
        ok = (row_ok & (column >= 0) & (column < W))[:, None] & (channel < C)[None, :]
        at = base + (row * W + column)[:, None] * C + channel[None, :]
        value = tl.load(src + at, mask=ok, other=0.0).to(tl.float32)
        if SOURCE == 1:
            value = tl.where(ok, activate(value + bias[None, :], limit), 0.0)
        elif SOURCE == 2:
            x = tl.load(other + at, mask=ok, other=0.0).to(tl.float32)
            value = value * activation_slope(x + bias[None, :], limit)
        weight = 3.0 if (tap == 1 or tap == 2) else 1.0
        total += value * weight
    return total


@triton.jit
def _low_pass_kernel(
    src, other, out, bias_C, sums_GC, scale_BC, noise_hw, strength,
    H, W, h, w, C, pad, gain, limit, column_blocks, row_blocks,
    SOURCE: tl.constexpr, TARGET: tl.constexpr, BIAS: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, ROWS_: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    batch = (block // (column_blocks * row_blocks)).to(tl.int64)
    rest = block % (column_blocks * row_blocks)
    first_row = (rest // column_blocks) * ROWS_
    columns = (rest % column_blocks) * BLOCK_W + tl.arange(0, BLOCK_W)
    base_in = batch * H * W * C
    base_out = batch * h * w * C
    bias = tl.zeros((BLOCK_C,), tl.float32)
    if BIAS:
        bias = tl.load(bias_C + channel, mask=channel < C, other=0.0).to(tl.float32)
    scale = tl.zeros((BLOCK_C,), tl.float32)
    noise_strength = 0.0
    if TARGET == 2:
        scale = tl.load(scale_BC + batch * C + channel, mask=channel < C, other=0.0).to(tl.float32)
        noise_strength = tl.load(strength).to(tl.float32)
    sums = tl.zeros((BLOCK_C,), tl.float32)
    left = columns - pad
    r0 = _tap(src, other, base_in, first_row - pad, left, channel, H, W, C, bias, limit, SOURCE, True)
    r1 = _tap(src, other, base_in, first_row - pad + 1, left, channel, H, W, C, bias, limit, SOURCE, True)
    r2 = _tap(src, other, base_in, first_row - pad + 2, left, channel, H, W, C, bias, limit, SOURCE, True)
    for step in range(ROWS_):
        row = first_row + step
        r3 = _tap(src, other, base_in, row - pad + 3, left, channel, H, W, C, bias, limit, SOURCE, True)
        value = (r0 + 3.0 * (r1 + r2) + r3) * (gain / 64.0)
        r0 = r1
        r1 = r2
        r2 = r3
        ok = ((row < h) & (columns < w))[:, None] & (channel < C)[None, :]
        at = base_out + (row * w + columns)[:, None] * C + channel[None, :]
        if TARGET == 1:
            x = tl.load(other + at, mask=ok, other=0.0).to(tl.float32)
            value = value * activation_slope(x + bias[None, :], limit)
            if SUMS:
                sums += tl.sum(tl.where(ok, value, 0.0), axis=0)
        elif TARGET == 2:
            noise = tl.load(noise_hw + row * w + columns, mask=(row < h) & (columns < w), other=0.0)
            value = value * scale[None, :] + (noise.to(tl.float32) * noise_strength)[:, None] + bias[None, :]
            value = activate(value, limit)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=ok)
    if SUMS:
        tl.store(sums_GC + block.to(tl.int64) * C + channel, sums, mask=channel < C)


def _launch(
    src: Tensor, height: int, width: int, pad: int, *, gain: float = 1.0, other: Tensor | None = None,
    bias: Tensor | None = None, limit: float = 0.0, source: int = 0, target: int = 0, sums: bool = False,
    scale: Tensor | None = None, noise: Tensor | None = None, strength: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Runs the kernel; returns (out BChw, per-channel sums C or None)."""
    batch, channels, in_height, in_width = src.shape
    out = empty_nhwc(batch, channels, height, width, src)
    block_c = min(triton.next_power_of_2(channels), 64)
    block_w = max(2048 // block_c // 2, 16)
    column_blocks, row_blocks = cdiv(width, block_w), cdiv(height, ROWS)
    programs = batch * column_blocks * row_blocks
    sums_GC = torch.empty((programs, channels), device=src.device, dtype=torch.float32) if sums else src
    _low_pass_kernel[(programs, cdiv(channels, block_c))](
        src, src if other is None else other, out, src if bias is None else bias, sums_GC,
        src if scale is None else scale, src if noise is None else noise, src if strength is None else strength,
        in_height, in_width, height, width, channels, pad, gain, limit, column_blocks, row_blocks,
        SOURCE=source, TARGET=target, BIAS=bias is not None, SUMS=sums,
        BLOCK_W=block_w, BLOCK_C=block_c, ROWS_=ROWS, num_warps=4,
    )  # fmt: skip
    return out, sums_GC.sum(dim=0) if sums else None


def low_pass(x_BCHW: Tensor, height: int, width: int, pad: int, gain: float = 1.0) -> Tensor:
    """The filter alone (no gradient); `pad` zeros on the top and left, as many as needed below and right."""
    return _launch(channels_last(x_BCHW), height, width, pad, gain=gain)[0]


class ActivatedLowPass(Function):
    """low_pass(act(x + bias), padding 2): BCHW -> BC(H+1)(W+1), twice differentiable in x."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, clamp: float | None) -> Tensor:
        x = channels_last(x)
        ctx.save_for_backward(x, bias)
        ctx.clamp = clamp
        return _launch(
            x, x.shape[2] + 1, x.shape[3] + 1, 2, bias=bias, limit=limit_of(clamp), source=1
        )[0]  # fmt: skip

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, bias = ctx.saved_tensors
        grad_x, grad_bias = _ActivatedLowPassGrad.apply(
            grad, x, bias, ctx.clamp, ctx.needs_input_grad[1] and weight_gradients_wanted()
        )
        return grad_x, grad_bias, None


class _ActivatedLowPassGrad(Function):
    """(grad_x, grad_bias) of ActivatedLowPass; differentiable in `grad` (the slope is piecewise constant)."""

    @staticmethod
    def forward(ctx, grad: Tensor, x: Tensor, bias: Tensor, clamp: float | None, needs_bias: bool):
        ctx.save_for_backward(x, bias)
        ctx.clamp = clamp
        grad_x, grad_bias = _launch(
            channels_last(grad), x.shape[2], x.shape[3], 1,
            other=x, bias=bias, limit=limit_of(clamp), target=1, sums=needs_bias,
        )  # fmt: skip
        return grad_x, grad_bias

    @staticmethod
    def backward(ctx, grad_grad_x: Tensor, _grad_grad_bias):
        x, bias = ctx.saved_tensors
        out, _ = _launch(
            channels_last(grad_grad_x), x.shape[2] + 1, x.shape[3] + 1, 2,
            other=x, bias=bias, limit=limit_of(ctx.clamp), source=2,
        )  # fmt: skip
        return out, None, None, None, None
