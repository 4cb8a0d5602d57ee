"""The skip connection of the tri-plane backbone: low-passed upsampling by 2, plus this level's planes and bias.

Shape legend: B batch, C channels, H W output size
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import NO_CLAMP, cdiv, channels_last, empty_nhwc, programs_for


@triton.jit
def _forward_kernel(
    skip, x, bias_C, y, H, W, C, limit, HAS_SKIP: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = channel < C
    ok = (pixel < H * W)[:, None] & c_ok[None, :]
    x += b * H * W * C
    y += b * H * W * C
    at = pixel[:, None] * C + channel[None, :]
    value = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
    value += tl.load(bias_C + channel, mask=c_ok, other=0.0)[None, :]
    value = tl.minimum(tl.maximum(value, -limit), limit)
    if HAS_SKIP:
        # Output row 2i reads input rows i-1 and i with 1/4 and 3/4, row 2i+1 rows i and i+1 with 3/4 and 1/4.
        row, column = pixel // W, pixel % W
        near_r, near_c = row // 2, column // 2
        far_r, far_c = near_r + (row % 2) * 2 - 1, near_c + (column % 2) * 2 - 1
        h, w = H // 2, W // 2
        base = b * h * w * C
        for i in tl.static_range(2):
            for j in tl.static_range(2):
                r = near_r if i == 0 else far_r
                c = near_c if j == 0 else far_c
                weight = (0.75 if i == 0 else 0.25) * (0.75 if j == 0 else 0.25)
                inside = (r >= 0) & (r < h) & (c >= 0) & (c < w)
                s = tl.load(
                    skip + base + (r * w + c)[:, None] * C + channel[None, :],
                    mask=ok & inside[:, None],
                    other=0.0,
                )
                value += s * weight
    tl.store(y + at, value, mask=ok)


@triton.jit
def _skip_backward_kernel(grad, out, H, W, C, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """out[i] = 1/4 grad[2i-1] + 3/4 grad[2i] + 3/4 grad[2i+1] + 1/4 grad[2i+2], on both axes."""
    h, w = H // 2, W // 2
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = (pixel < h * w)[:, None] & (channel < C)[None, :]
    row, column = pixel // w, pixel % w
    value = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for i in tl.static_range(4):
        for j in tl.static_range(4):
            r, c = 2 * row - 1 + i, 2 * column - 1 + j
            weight = (0.75 if (i == 1 or i == 2) else 0.25) * (0.75 if (j == 1 or j == 2) else 0.25)
            inside = (r >= 0) & (r < H) & (c >= 0) & (c < W)
            at = (r * W + c)[:, None] * C + channel[None, :]
            value += tl.load(grad + b * H * W * C + at, mask=ok & inside[:, None], other=0.0) * weight
    tl.store(out + b * h * w * C + pixel[:, None] * C + channel[None, :], value, mask=ok)


@triton.jit
def _input_backward_kernel(
    grad,
    x,
    bias_C,
    out,
    sums,
    P,
    C,
    limit,
    pixel_blocks,
    blocks,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = channel < C
    bias = tl.load(bias_C + channel, mask=c_ok, other=0.0)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for block in range(program, blocks, programs):
        b = (block // pixel_blocks).to(tl.int64)
        pixel = (block % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
        ok = (pixel < P)[:, None] & c_ok[None, :]
        first = b * P * C
        at = pixel[:, None] * C + channel[None, :]
        g = tl.load(grad + first + at, mask=ok, other=0.0)
        if limit < 1e30:
            value = tl.load(x + first + at, mask=ok, other=0.0).to(tl.float32) + bias[None, :]
            g = tl.where(tl.abs(value) < limit, g, 0.0)
        tl.store(out + first + at, g.to(out.dtype.element_ty), mask=ok)
        total += g
    tl.store(sums + program * C + channel, tl.sum(total, axis=0), mask=c_ok)


def _block_channels(channels: int) -> int:
    """64 channels to a program, or 32 where 64 would leave half a block idle (96 = 3 planes x 32)."""
    return 64 if channels % 64 == 0 else min(triton.next_power_of_2(channels), 32)


class AddUpsampledSkip(Function):
    """upsample_2x(skip) + clamp(x + bias), float32; skip may be None."""

    @staticmethod
    def forward(ctx, skip: Tensor | None, x: Tensor, bias_C: Tensor, clamp: float | None) -> Tensor:
        x = channels_last(x)
        limit = NO_CLAMP if clamp is None else clamp
        batch, channels, height, width = x.shape
        y = empty_nhwc(batch, channels, height, width, x, torch.float32)
        block_c = _block_channels(channels)
        _forward_kernel[(cdiv(height * width, 64), batch, cdiv(channels, block_c))](
            y if skip is None else channels_last(skip), x, bias_C, y, height, width, channels, limit,
            HAS_SKIP=skip is not None, BLOCK_P=64, BLOCK_C=block_c,
        )  # fmt: skip
        ctx.save_for_backward(x, bias_C)
        ctx.has_skip, ctx.limit = skip is not None, limit
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, bias_C = ctx.saved_tensors
        grad = channels_last(grad)
        batch, channels, height, width = x.shape
        block_c = _block_channels(channels)
        grad_skip = None
        if ctx.has_skip:
            grad_skip = empty_nhwc(batch, channels, height // 2, width // 2, grad)
            _skip_backward_kernel[(cdiv(height * width // 4, 32), batch, cdiv(channels, block_c))](
                grad, grad_skip, height, width, channels, BLOCK_P=32, BLOCK_C=block_c
            )
        grad_x = torch.empty_like(x)
        pixel_blocks = cdiv(height * width, 64)
        programs = programs_for(batch * pixel_blocks, grad.device)
        sums = torch.empty((programs, channels), device=grad.device, dtype=torch.float32)
        _input_backward_kernel[(programs, cdiv(channels, block_c))](
            grad, x, bias_C, grad_x, sums, height * width, channels, ctx.limit, pixel_blocks,
            batch * pixel_blocks, BLOCK_P=64, BLOCK_C=block_c,
        )  # fmt: skip
        return grad_skip, grad_x, sums.sum(dim=0), None
