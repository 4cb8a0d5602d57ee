"""What follows a modulated convolution: demodulation, constant noise (if any), bias and activation in one pass; and
the scaling of channels by the style before it.

The backward passes recover the pre-activation value from the output, which the next layer keeps anyway, so the
convolution's result is not stored.

Shape legend: B batch, C channels, H W size, P = H W, G programs per image
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import (
    GAIN,
    SLOPE,
    activate,
    cdiv,
    channels_last,
    limit_of,
    programs_for,
)
from get3d_model.ops.fused.low_pass import filter_image, low_pass
from get3d_model.ops.fused.low_pass_kernel import EPILOGUE


@triton.jit
def _epilogue_kernel(
    x, y, scale_BC, bias_C, noise_P, strength, P, C, limit,
    NOISE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = channel < C
    ok = (pixel < P)[:, None] & c_ok[None, :]
    first = batch * P * C
    at = pixel[:, None] * C + channel[None, :]
    value = tl.load(x + first + at, mask=ok, other=0.0).to(tl.float32)
    scale = tl.load(scale_BC + batch * C + channel, mask=c_ok, other=0.0).to(tl.float32)
    bias = tl.load(bias_C + channel, mask=c_ok, other=0.0).to(tl.float32)
    value = value * scale[None, :]
    if NOISE:
        noise = tl.load(noise_P + pixel, mask=pixel < P, other=0.0).to(tl.float32) * tl.load(strength)
        value += noise[:, None]
    value = activate(value + bias[None, :], limit)
    tl.store(y + first + at, value.to(y.dtype.element_ty), mask=ok)


@triton.jit
def _epilogue_backward_kernel(
    grad, y, out, scale_BC, noise_P, sums, P, C, limit, blocks, NOISE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    batch = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = channel < C
    scale = tl.load(scale_BC + batch * C + channel, mask=c_ok, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    with_value = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    with_noise = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    first = batch * P * C
    for block in range(program, blocks, programs):
        pixel = block * BLOCK_P + tl.arange(0, BLOCK_P)
        ok = (pixel < P)[:, None] & c_ok[None, :]
        at = pixel[:, None] * C + channel[None, :]
        activated = tl.load(y + first + at, mask=ok, other=0.0).to(tl.float32)
        slope = tl.where(activated > 0, GAIN, GAIN * SLOPE)
        value = activated / slope
        q = tl.load(grad + first + at, mask=ok, other=0.0).to(tl.float32) * slope
        q = tl.where(tl.abs(activated) < limit, q, 0.0)
        tl.store(out + first + at, (q * scale[None, :]).to(out.dtype.element_ty), mask=ok)
        total += q
        with_value += q * value
        if NOISE:
            noise = tl.load(noise_P + pixel, mask=pixel < P, other=0.0).to(tl.float32)
            with_noise += q * noise[:, None]
    at = ((batch * programs + program) * 3) * C + channel
    tl.store(sums + at, tl.sum(total, axis=0), mask=c_ok)
    tl.store(sums + at + C, tl.sum(with_value, axis=0), mask=c_ok)
    tl.store(sums + at + 2 * C, tl.sum(with_noise, axis=0), mask=c_ok)


def _blocks(channels: int, values: int = 4096) -> tuple[int, int]:
    """(BLOCK_P, BLOCK_C) of a program that takes about so many values at a time."""
    block_c = min(triton.next_power_of_2(channels), 128)
    return max(values // block_c, 4), block_c


class SynthesisEpilogue(Function):
    """act(x * scale + noise * strength + bias); with `up`, x is first low-passed with gain 4 (padding 1).

    Without `up`, noise and strength may be None.
    """

    @staticmethod
    def forward(ctx, x, scale_BC, noise_HW, strength, bias_C, clamp, up: bool) -> Tensor:
        x = channels_last(x)
        batch, channels, height, width = x.shape
        scale_BC = scale_BC.contiguous()
        limit = limit_of(clamp)
        if up:
            y, _ = filter_image(
                x, height - 1, width - 1, 1, gain=4.0, bias=bias_C, clamp=clamp, target=EPILOGUE,
                scale=scale_BC, noise=noise_HW, strength=strength,
            )  # fmt: skip
        else:
            y = torch.empty_like(x)
            block_p, block_c = _blocks(channels)
            pixels = height * width
            _epilogue_kernel[(cdiv(pixels, block_p), batch, cdiv(channels, block_c))](
                x, y, scale_BC, bias_C, x if noise_HW is None else noise_HW, x if noise_HW is None else strength,
                pixels, channels, limit, NOISE=noise_HW is not None, BLOCK_P=block_p, BLOCK_C=block_c,
            )  # fmt: skip
        ctx.save_for_backward(y, scale_BC, noise_HW, strength, bias_C)
        ctx.limit, ctx.up, ctx.in_size = limit, up, (height, width)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        y, scale_BC, noise_HW, strength, bias_C = ctx.saved_tensors
        grad = channels_last(grad)
        batch, channels, height, width = y.shape
        pixels = height * width
        block_p, block_c = _blocks(channels, 1024)
        blocks = cdiv(pixels, block_p)
        programs = max(1, programs_for(blocks * batch, y.device) // batch)
        programs = min(programs, blocks)
        out = torch.empty_like(y)
        sums = torch.empty((batch, programs, 3, channels), device=y.device, dtype=torch.float32)
        _epilogue_backward_kernel[(programs, batch, cdiv(channels, block_c))](
            grad, y, out, scale_BC, y if noise_HW is None else noise_HW, sums, pixels, channels, ctx.limit, blocks,
            NOISE=noise_HW is not None, BLOCK_P=block_p, BLOCK_C=block_c,
        )  # fmt: skip
        total_BC, with_value_BC, with_noise_BC = sums.sum(dim=1).unbind(dim=1)
        grad_scale, grad_strength = with_value_BC - bias_C * total_BC, None
        if noise_HW is not None:
            grad_scale -= strength * with_noise_BC
            grad_strength = with_noise_BC.sum()
        if ctx.up:
            out = low_pass(out, *ctx.in_size, pad=2, gain=4.0)
        return out, grad_scale / scale_BC, None, grad_strength, total_BC.sum(dim=0), None, None


@triton.jit
def _scale_kernel(x, y, scale_BC, P, C, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    batch = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = (pixel < P)[:, None] & (channel < C)[None, :]
    first = batch * P * C
    at = pixel[:, None] * C + channel[None, :]
    scale = tl.load(scale_BC + batch * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    value = tl.load(x + first + at, mask=ok, other=0.0).to(tl.float32) * scale[None, :]
    tl.store(y + first + at, value.to(y.dtype.element_ty), mask=ok)


@triton.jit
def _scale_backward_kernel(
    grad, x, out, scale_BC, sums, P, C, blocks, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    batch = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = channel < C
    scale = tl.load(scale_BC + batch * C + channel, mask=c_ok, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    first = batch * P * C
    for block in range(program, blocks, programs):
        pixel = block * BLOCK_P + tl.arange(0, BLOCK_P)
        ok = (pixel < P)[:, None] & c_ok[None, :]
        at = pixel[:, None] * C + channel[None, :]
        g = tl.load(grad + first + at, mask=ok, other=0.0).to(tl.float32)
        total += g * tl.load(x + first + at, mask=ok, other=0.0).to(tl.float32)
        tl.store(out + first + at, (g * scale[None, :]).to(out.dtype.element_ty), mask=ok)
    tl.store(sums + (batch * programs + program) * C + channel, tl.sum(total, axis=0), mask=c_ok)


class ScaleChannels(Function):
    """x * style per sample and channel."""

    @staticmethod
    def forward(ctx, x: Tensor, scale_BC: Tensor) -> Tensor:
        x = channels_last(x)
        scale_BC = scale_BC.contiguous()
        batch, channels, height, width = x.shape
        y = torch.empty_like(x)
        block_p, block_c = _blocks(channels)
        _scale_kernel[(cdiv(height * width, block_p), batch, cdiv(channels, block_c))](
            x, y, scale_BC, height * width, channels, BLOCK_P=block_p, BLOCK_C=block_c
        )
        ctx.save_for_backward(x, scale_BC)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, scale_BC = ctx.saved_tensors
        grad = channels_last(grad)
        batch, channels, height, width = x.shape
        pixels = height * width
        block_p, block_c = _blocks(channels, 1024)
        blocks = cdiv(pixels, block_p)
        programs = min(max(1, programs_for(blocks * batch, x.device) // batch), blocks)
        out = torch.empty_like(x)
        sums = torch.empty((batch, programs, channels), device=x.device, dtype=torch.float32)
        _scale_backward_kernel[(programs, batch, cdiv(channels, block_c))](
            grad, x, out, scale_BC, sums, pixels, channels, blocks, BLOCK_P=block_p, BLOCK_C=block_c
        )
        return out, sums.sum(dim=1)
