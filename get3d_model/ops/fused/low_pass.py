"""Separable [1, 3, 3, 1] low-pass of a channels-last image, fused with what stands before and after it.

Shape legend: B batch, C channels, H W input size, h w output size
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.autograd import Function

from get3d_model.ops.conv import weight_gradients_wanted
from get3d_model.ops.fused.common import cdiv, channels_last, empty_nhwc
from get3d_model.ops.fused.low_pass_kernel import (
    ACTIVATED,
    AS_IS,
    PLAIN,
    SLOPED,
    TIMES_SLOPE,
    low_pass_kernel,
)
from get3d_model.ops.leaky import LEAKY_GAIN

ROWS = 32
"""About so many of a program, or a quarter of them where there would be fewer programs than the next number."""
FEW_PROGRAMS = 1024
VALUES, WARPS = 256, 4
"""Lanes times channels of a program, and its warps."""
PHASES = 4
"""Neighbouring outputs that one lane makes from seven inputs, each read and activated once."""


def _rows(height: int, strips: int) -> int:
    """Rows of a program: every one repeats three at its top, so many, but no more than keep the device busy.

    As even as the height allows: 65 rows are two times 33, not 32, 32 and 1.
    """
    blocks = max(1, round(height / ROWS))
    if strips * blocks < FEW_PROGRAMS:
        blocks = cdiv(height, ROWS // 4)
    return cdiv(height, blocks)


def filter_image(
    src: Tensor, height: int, width: int, pad: int, *, gain: float = 1.0, other: Tensor | None = None,
    bias: Tensor | None = None, clamp: float | None = None, source: int = PLAIN, target: int = AS_IS, sums: bool = False,
    scale: Tensor | None = None, noise: Tensor | None = None, strength: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Filters, padded by `pad` zeros on the top and left; returns (out BChw, per-channel sums C or None)."""
    batch, channels, in_height, in_width = src.shape
    out = empty_nhwc(batch, channels, height, width, src)
    block_c = min(triton.next_power_of_2(channels), 64)
    lanes = max(VALUES // block_c, 4)
    column_blocks = cdiv(width, PHASES * lanes)
    rows = _rows(height, batch * column_blocks * cdiv(channels, block_c))
    row_blocks = cdiv(height, rows)
    programs = batch * column_blocks * row_blocks
    # The gain of an activation on either side is part of the filter's.
    weight = gain / 64.0 * (LEAKY_GAIN if source or target == TIMES_SLOPE else 1.0)
    sums_GC = torch.empty((programs, channels), device=src.device, dtype=torch.float32) if sums else src
    low_pass_kernel[(programs, cdiv(channels, block_c))](
        src, src if other is None else other, out, src if bias is None else bias, sums_GC,
        src if scale is None else scale, src if noise is None else noise, src if strength is None else strength,
        in_height, in_width, height, width, channels, pad, weight, clamp or 0.0, column_blocks, row_blocks,
        SOURCE=source, TARGET=target, BIAS=bias is not None, SUMS=sums, CLAMP=clamp is not None,
        LANES=lanes, BLOCK_C=block_c, ROWS_=rows, num_warps=WARPS,
    )  # fmt: skip
    return out, sums_GC.sum(dim=0) if sums else None


def low_pass(x_BCHW: Tensor, height: int, width: int, pad: int, gain: float = 1.0) -> Tensor:
    """The filter alone (no gradient); `pad` zeros on the top and left, as many as needed below and right."""
    return filter_image(channels_last(x_BCHW), height, width, pad, gain=gain)[0]


class ActivatedLowPass(Function):
    """low_pass(act(x + bias), padding 2): BCHW -> BC(H+1)(W+1), twice differentiable in x."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, clamp: float | None) -> Tensor:
        x = channels_last(x)
        ctx.save_for_backward(x, bias)
        ctx.clamp = clamp
        return filter_image(
            x, x.shape[2] + 1, x.shape[3] + 1, 2, bias=bias, clamp=clamp, source=ACTIVATED
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
        grad_x, grad_bias = filter_image(
            channels_last(grad), x.shape[2], x.shape[3], 1,
            other=x, bias=bias, clamp=clamp, target=TIMES_SLOPE, sums=needs_bias,
        )  # fmt: skip
        return grad_x, grad_bias

    @staticmethod
    def backward(ctx, grad_grad_x: Tensor, _grad_grad_bias):
        x, bias = ctx.saved_tensors
        out, _ = filter_image(
            channels_last(grad_grad_x), x.shape[2] + 1, x.shape[3] + 1, 2,
            other=x, bias=bias, clamp=ctx.clamp, source=SLOPED,
        )  # fmt: skip
        return out, None, None, None, None
