"""The discriminator's entry at each resolution: act(x + bias_x) + act(fromrgb(image) + bias), in one pass.

A 1x1 convolution of 3 (or 1) channels is all memory traffic, so it is computed from the image wherever it is
needed and never stored. Twice differentiable in x and the image, for R1.

Shape legend: B batch, K image channels, C channels, P pixels of one image, G programs
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.conv import weight_gradients_wanted
from get3d_model.ops.fused.common import (
    activate,
    activation_slope,
    cdiv,
    channels_last,
    empty_nhwc,
    limit_of,
    programs_for,
    times_slope,
)


@triton.jit
def _image_value(img, weight_CK, pixel, p_ok, channel, c_ok, stride_k, stride_p, K: tl.constexpr):
    """image @ weight^T for a block of pixels; [BLOCK_P, BLOCK_C]."""
    value = tl.zeros((pixel.shape[0], channel.shape[0]), tl.float32)
    for k in tl.static_range(K):
        i = tl.load(img + k * stride_k + pixel * stride_p, mask=p_ok, other=0.0).to(tl.float32)
        w = tl.load(weight_CK + channel * K + k, mask=c_ok, other=0.0)
        value += i[:, None] * w[None, :]
    return value


@triton.jit
def _column(weight_CK, channel, c_ok, k: tl.constexpr, K: tl.constexpr):
    """The weights of image channel k, zero where there is none; [BLOCK_C]."""
    if k < K:
        return tl.load(weight_CK + channel * K + k, mask=c_ok, other=0.0)
    return tl.zeros((channel.shape[0],), tl.float32)


@triton.jit
def _plane(image, stride_k, p_ok, k: tl.constexpr, K: tl.constexpr):
    """Image channel k of a block of pixels, zero where there is none; [BLOCK_P]."""
    if k < K:
        return tl.load(image + k * stride_k, mask=p_ok, other=0.0).to(tl.float32)
    return tl.zeros(p_ok.shape, tl.float32)


@triton.jit
def _place(block, pixel_blocks, P, EVEN: tl.constexpr, BLOCK_P: tl.constexpr):
    """(image, pixels in it, which of them exist) of a block. Where all exist, the compiler drops the masks."""
    pixel = (block % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    p_ok = tl.full((BLOCK_P,), True, tl.int1) if EVEN else pixel < P
    return (block // pixel_blocks).to(tl.int64), pixel, p_ok


@triton.jit
def _read(
    block, grad, x, img, P, C, stride_b, stride_k, stride_p, pixel_blocks, channel, c_ok,
    K: tl.constexpr, HAS_GRAD: tl.constexpr, HAS_X: tl.constexpr, EVEN: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """What a block reads, as it lies in memory: gradient, x, three channels of the image."""
    b, pixel, p_ok = _place(block, pixel_blocks, P, EVEN, BLOCK_P)
    ok = p_ok[:, None] & c_ok[None, :]
    at = pixel[:, None] * C + channel[None, :]
    g = tl.zeros(ok.shape, tl.float32)
    u = g
    if HAS_GRAD:
        g = tl.load(grad + b * P * C + at, mask=ok, other=0.0)
    if HAS_X:
        u = tl.load(x + b * P * C + at, mask=ok, other=0.0)
    image = img + b * stride_b + pixel * stride_p
    i0, i1 = _plane(image, stride_k, p_ok, 0, K), _plane(image, stride_k, p_ok, 1, K)
    return g, u, i0, i1, _plane(image, stride_k, p_ok, 2, K)


@triton.jit
def _combined(i0, i1, i2, k0, k1, k2, bias, K: tl.constexpr):
    """image @ weight^T + bias from what was read; [BLOCK_P, BLOCK_C]."""
    v = i0[:, None] * k0[None, :] + bias[None, :]
    if K == 3:
        v += i1[:, None] * k1[None, :] + i2[:, None] * k2[None, :]
    return v


@triton.jit
def _forward_kernel(
    x, bias_x, img, weight_CK, bias_C, y, P, C, stride_b, stride_k, stride_p, limit_x, limit, pixel_blocks, blocks,
    K: tl.constexpr, HAS_X: tl.constexpr, EVEN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Weights stay in registers while a program goes through its blocks; it covers all channels."""
    channel = tl.arange(0, BLOCK_C)
    c_ok = tl.full((BLOCK_C,), True, tl.int1) if EVEN else channel < C
    bias = tl.load(bias_C + channel, mask=c_ok, other=0.0)
    bx = tl.load(bias_x + channel, mask=c_ok, other=0.0) if HAS_X else bias
    k0, k1 = _column(weight_CK, channel, c_ok, 0, K), _column(weight_CK, channel, c_ok, 1, K)
    k2 = _column(weight_CK, channel, c_ok, 2, K)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        _, u, i0, i1, i2 = _read(
            block, x, x, img, P, C, stride_b, stride_k, stride_p, pixel_blocks, channel, c_ok,
            K, False, HAS_X, EVEN, BLOCK_P,
        )  # fmt: skip
        v = activate(_combined(i0, i1, i2, k0, k1, k2, bias, K), limit)
        if HAS_X:
            v += activate(u.to(tl.float32) + bx[None, :], limit_x)
        b, pixel, p_ok = _place(block, pixel_blocks, P, EVEN, BLOCK_P)
        at = y + b * P * C + pixel[:, None] * C + channel[None, :]
        tl.store(at, v.to(y.dtype.element_ty), mask=p_ok[:, None] & c_ok[None, :])


@triton.jit
def _backward_kernel(
    grad, x, bias_x, img, weight_CK, bias_C, grad_x, grad_img, sums,
    P, C, stride_b, stride_k, stride_p, limit_x, limit, pixel_blocks, blocks,
    K: tl.constexpr, HAS_X: tl.constexpr, IMAGE: tl.constexpr, WEIGHTS: tl.constexpr,
    CLAMP_X: tl.constexpr, CLAMP: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """sums: G(K+2)C, the partial sums of grad_weight (K rows), grad_bias, grad_bias_x.

    One program covers all channels: BLOCK_C >= C. It asks for a block while it computes the one before.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.arange(0, BLOCK_C)
    c_ok = tl.full((BLOCK_C,), True, tl.int1) if EVEN else channel < C
    bias = tl.load(bias_C + channel, mask=c_ok, other=0.0)
    bx = tl.load(bias_x + channel, mask=c_ok, other=0.0) if HAS_X else bias
    k0, k1 = _column(weight_CK, channel, c_ok, 0, K), _column(weight_CK, channel, c_ok, 1, K)
    k2 = _column(weight_CK, channel, c_ok, 2, K)
    w0 = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    w1 = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    w2 = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    total_x = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    next_g, next_u, next_0, next_1, next_2 = _read(
        program, grad, x, img, P, C, stride_b, stride_k, stride_p, pixel_blocks, channel, c_ok,
        K, True, HAS_X, EVEN, BLOCK_P,
    )  # fmt: skip
    for block in range(program, blocks, programs):
        g, u, i0, i1, i2 = next_g.to(tl.float32), next_u, next_0, next_1, next_2
        # The last one reads a block that exists, and drops it.
        next_g, next_u, next_0, next_1, next_2 = _read(
            tl.minimum(block + programs, blocks - 1), grad, x, img, P, C, stride_b, stride_k, stride_p,
            pixel_blocks, channel, c_ok, K, True, HAS_X, EVEN, BLOCK_P,
        )  # fmt: skip
        b, pixel, p_ok = _place(block, pixel_blocks, P, EVEN, BLOCK_P)
        if HAS_X:
            gx = times_slope(g, u.to(tl.float32) + bx[None, :], limit_x, CLAMP_X)
            at = grad_x + b * P * C + pixel[:, None] * C + channel[None, :]
            tl.store(at, gx.to(grad_x.dtype.element_ty), mask=p_ok[:, None] & c_ok[None, :])
            if WEIGHTS:
                total_x += gx
        gv = times_slope(g, _combined(i0, i1, i2, k0, k1, k2, bias, K), limit, CLAMP)
        if IMAGE:
            at = grad_img + b * K * P + pixel
            tl.store(at, tl.sum(gv * k0[None, :], axis=1).to(grad_img.dtype.element_ty), mask=p_ok)
            if K == 3:
                tl.store(at + P, tl.sum(gv * k1[None, :], axis=1).to(grad_img.dtype.element_ty), mask=p_ok)
                tl.store(
                    at + 2 * P, tl.sum(gv * k2[None, :], axis=1).to(grad_img.dtype.element_ty), mask=p_ok
                )
        if WEIGHTS:
            total += gv
            w0 += gv * i0[:, None]
            if K == 3:
                w1 += gv * i1[:, None]
                w2 += gv * i2[:, None]
    if WEIGHTS:
        at = sums + program * (K + 2) * C + channel
        tl.store(at, tl.sum(w0, axis=0), mask=c_ok)
        if K == 3:
            tl.store(at + C, tl.sum(w1, axis=0), mask=c_ok)
            tl.store(at + 2 * C, tl.sum(w2, axis=0), mask=c_ok)
        tl.store(at + K * C, tl.sum(total, axis=0), mask=c_ok)
        tl.store(at + (K + 1) * C, tl.sum(total_x, axis=0), mask=c_ok)


@triton.jit
def _double_backward_kernel(
    gg_x, gg_img, grad, x, bias_x, img, weight_CK, bias_C, out, sums,
    P, C, stride_b, stride_k, stride_p, limit_x, limit, pixel_blocks, blocks,
    K: tl.constexpr, HAS_X: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out = slope_x gg_x + slope_v (gg_img @ W^T); sums: GKC partial sums of (slope_v grad)^T gg_img."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    channel = tl.arange(0, BLOCK_C)
    c_ok = channel < C
    bias = tl.load(bias_C + channel, mask=c_ok, other=0.0)
    w0 = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    w1 = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    w2 = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for block in range(program, blocks, programs):
        b = (block // pixel_blocks).to(tl.int64)
        pixel = (block % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
        p_ok = pixel < P
        ok = p_ok[:, None] & c_ok[None, :]
        first = b * P * C
        at = pixel[:, None] * C + channel[None, :]
        v = _image_value(img + b * stride_b, weight_CK, pixel, p_ok, channel, c_ok, stride_k, stride_p, K)
        slope = activation_slope(v + bias[None, :], limit)
        value = slope * _image_value(gg_img + b * K * P, weight_CK, pixel, p_ok, channel, c_ok, P, 1, K)
        if HAS_X:
            bx = tl.load(bias_x + channel, mask=c_ok, other=0.0)
            u = tl.load(x + first + at, mask=ok, other=0.0).to(tl.float32)
            value += tl.load(gg_x + first + at, mask=ok, other=0.0).to(tl.float32) * activation_slope(
                u + bx[None, :], limit_x
            )
        tl.store(out + first + at, value.to(out.dtype.element_ty), mask=ok)
        gv = tl.load(grad + first + at, mask=ok, other=0.0).to(tl.float32) * slope
        base = gg_img + b * K * P + pixel
        w0 += gv * tl.load(base, mask=p_ok, other=0.0).to(tl.float32)[:, None]
        if K == 3:
            w1 += gv * tl.load(base + P, mask=p_ok, other=0.0).to(tl.float32)[:, None]
            w2 += gv * tl.load(base + 2 * P, mask=p_ok, other=0.0).to(tl.float32)[:, None]
    at = sums + program * K * C + channel
    tl.store(at, tl.sum(w0, axis=0), mask=c_ok)
    if K == 3:
        tl.store(at + C, tl.sum(w1, axis=0), mask=c_ok)
        tl.store(at + 2 * C, tl.sum(w2, axis=0), mask=c_ok)


@dataclass(frozen=True)
class _Launch:
    """How a kernel that keeps weights and sums in registers shares its work.

    values: pixels times channels of a block; per_sm: programs of each multiprocessor.
    """

    values: int
    warps: int = 4
    per_sm: int = 8

    def blocks(self, channels: int) -> tuple[int, int]:
        """(BLOCK_P, BLOCK_C >= channels)."""
        block_c = triton.next_power_of_2(channels)
        return max(self.values // block_c, 2), block_c


# Timed on an H200 at 32 to 512 channels.
_FORWARD = _Launch(2048)
_DOUBLE_BACKWARD = _Launch(1024)


def _backward_launch(has_x: bool, needs_weights: bool) -> _Launch:
    if not has_x:
        return _Launch(2048, warps=8, per_sm=4)
    return _Launch(1024) if needs_weights else _Launch(2048, per_sm=4)


def _pixel_strides(image: Tensor) -> tuple[int, int, int]:
    """(batch, channel, pixel) strides of an image whose rows follow each other."""
    assert image.stride(2) == image.stride(3) * image.shape[3], image.stride()
    return image.stride(0), image.stride(1), image.stride(3)


class AddFromRgb(Function):
    """act(x + bias_x) + act(image @ weight^T + bias); x (raw convolution output) may be None.

    weight_CK is already scaled; `dtype` is that of the result.
    """

    @staticmethod
    def forward(ctx, x, bias_x, image, weight_CK, bias_C, clamp_x, clamp, dtype) -> Tensor:
        batch, kinds, height, width = image.shape
        channels, pixels = weight_CK.shape[0], height * width
        has_x = x is not None
        if has_x:
            x = channels_last(x)
        weight_CK = weight_CK.contiguous()
        y = empty_nhwc(batch, channels, height, width, image, dtype)
        block_p, block_c = _FORWARD.blocks(channels)
        pixel_blocks = cdiv(pixels, block_p)
        _forward_kernel[(programs_for(batch * pixel_blocks, image.device, _FORWARD.per_sm),)](
            x if has_x else y, bias_x if has_x else bias_C, image, weight_CK, bias_C, y,
            pixels, channels, *_pixel_strides(image), limit_of(clamp_x), limit_of(clamp), pixel_blocks, batch * pixel_blocks,
            K=kinds, HAS_X=has_x, EVEN=pixels % block_p == 0 and channels == block_c,
            BLOCK_P=block_p, BLOCK_C=block_c, num_warps=_FORWARD.warps,
        )  # fmt: skip
        ctx.save_for_backward(x, bias_x, image, weight_CK, bias_C)
        ctx.clamps = (clamp_x, clamp)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, bias_x, image, weight_CK, bias_C = ctx.saved_tensors
        need = ctx.needs_input_grad
        grads = _AddFromRgbGrad.apply(
            grad,
            weight_CK,
            x,
            bias_x,
            image,
            bias_C,
            *ctx.clamps,
            need[2],
            need[3] and weight_gradients_wanted(),
        )
        grad_x, grad_image, grad_weight, grad_bias, grad_bias_x = grads
        return grad_x, grad_bias_x, grad_image, grad_weight, grad_bias, None, None, None


class _AddFromRgbGrad(Function):
    """(grad_x, grad_image, grad_weight, grad_bias, grad_bias_x); differentiable in `grad` and the weight."""

    @staticmethod
    def forward(ctx, grad, weight_CK, x, bias_x, image, bias_C, clamp_x, clamp, needs_image, needs_weights):
        grad = channels_last(grad)
        batch, kinds, height, width = image.shape
        channels, pixels = weight_CK.shape[0], height * width
        has_x = x is not None
        grad_x = torch.empty_like(x) if has_x else None
        grad_image = (
            torch.empty((batch, kinds, height, width), device=grad.device, dtype=image.dtype)
            if needs_image
            else None
        )
        launch = _backward_launch(has_x, needs_weights)
        block_p, block_c = launch.blocks(channels)
        pixel_blocks = cdiv(pixels, block_p)
        programs = programs_for(batch * pixel_blocks, grad.device, launch.per_sm)
        sums = torch.empty(
            (programs, kinds + 2, channels) if needs_weights else (1,),
            device=grad.device,
            dtype=torch.float32,
        )
        _backward_kernel[(programs,)](
            grad, x if has_x else grad, bias_x if has_x else bias_C, image, weight_CK, bias_C,
            grad_x if has_x else grad, grad_image if needs_image else grad, sums,
            pixels, channels, *_pixel_strides(image), limit_of(clamp_x), limit_of(clamp), pixel_blocks, batch * pixel_blocks,
            K=kinds, HAS_X=has_x, IMAGE=needs_image, WEIGHTS=needs_weights, CLAMP_X=clamp_x is not None, CLAMP=clamp is not None,
            EVEN=pixels % block_p == 0 and channels == block_c,
            BLOCK_P=block_p, BLOCK_C=block_c, num_warps=launch.warps,
        )  # fmt: skip
        ctx.save_for_backward(grad, weight_CK, x, bias_x, image, bias_C)
        ctx.limits = (limit_of(clamp_x), limit_of(clamp))
        if not needs_weights:
            return grad_x, grad_image, None, None, None
        total = sums.sum(dim=0)
        return grad_x, grad_image, total[:kinds].T, total[kinds], total[kinds + 1] if has_x else None

    @staticmethod
    @once_differentiable
    def backward(ctx, gg_x, gg_image, *_unused):
        grad, weight_CK, x, bias_x, image, bias_C = ctx.saved_tensors
        batch, kinds, height, width = image.shape
        channels, pixels = weight_CK.shape[0], height * width
        has_x = x is not None
        block_p, block_c = _DOUBLE_BACKWARD.blocks(channels)
        pixel_blocks = cdiv(pixels, block_p)
        programs = programs_for(batch * pixel_blocks, grad.device)
        sums = torch.empty((programs, kinds, channels), device=grad.device, dtype=torch.float32)
        out = torch.empty_like(grad)
        _double_backward_kernel[(programs,)](
            channels_last(gg_x) if has_x else grad, gg_image.contiguous(), grad, x if has_x else grad,
            bias_x if has_x else bias_C, image, weight_CK, bias_C, out, sums,
            pixels, channels, *_pixel_strides(image), *ctx.limits, pixel_blocks, batch * pixel_blocks,
            K=kinds, HAS_X=has_x, BLOCK_P=block_p, BLOCK_C=block_c,
        )  # fmt: skip
        return out, sums.sum(dim=0).T, *[None] * 8
