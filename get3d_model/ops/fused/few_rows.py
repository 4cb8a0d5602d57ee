"""Products of a few rows with a weight, with what stands before and after them in the same launch.

A mapping network or a style is a product of a handful of rows with a weight of 512 x 512: the library takes as long to
start as to compute, once for every product, scale, bias, activation, and for each of their gradients.

Shape legend: R rows, I what is summed over, O outputs
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from get3d_model.ops.fused.common import SLOPE, cdiv

MAX_ROWS = 32
MAX_INPUTS = 1024
"""Up to these they were faster than the library's when timed; beyond them nobody has looked."""
ROWS, FEW_ROWS, OUTPUTS, INPUTS = 8, 4, 4, 128
"""Of a program of a product: its rows, where there are no more than the second number these, its outputs, and the inputs
of one of its steps. Among the fastest of what was tried, for a transposed weight, too."""
OUTER_ROWS, OUTER_OUTPUTS, OUTER_INPUTS = 16, 16, 128


def is_small(x_RI: Tensor) -> bool:
    """Whether these kernels take the rows, and are worth it."""
    rows, inputs = x_RI.shape
    return x_RI.dtype == torch.float32 and x_RI.stride(1) == 1 and rows <= MAX_ROWS and inputs <= MAX_INPUTS


@triton.jit
def _given(x, gate, x_at, gate_at, ok, BEFORE: tl.constexpr):
    """What stands left in the product: x itself, its square, its product with the slope of the leaky ReLU whose result
    is the gate, or what the gradient of 1 / sqrt(v) makes of x where the gate is that root."""
    value = tl.load(x + x_at, mask=ok, other=0.0)
    if BEFORE == "square":
        value = value * value
    if BEFORE == "slope":
        value = tl.where(tl.load(gate + gate_at, mask=ok, other=0.0) > 0, value, value * SLOPE)
    if BEFORE == "inverse root":
        root = tl.load(gate + gate_at, mask=ok, other=0.0)
        value = value * (-0.5 * root * root * root)
    return value


@triton.jit
def _rows_kernel(
    x, gate, weight, bias, style, out, rows, outputs, inputs, stride_x, stride_o, stride_i, stride_s, alpha, beta,
    BEFORE: tl.constexpr, AFTER: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """out RO = after(alpha * sum over I of before(x RI) * weight OI)."""
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    r_ok, o_ok = r < rows, o < outputs
    total = tl.zeros((BLOCK_R, BLOCK_O, BLOCK_I), tl.float32)
    for first in range(0, inputs, BLOCK_I):
        i = first + tl.arange(0, BLOCK_I)
        i_ok = i < inputs
        left = _given(
            x, gate, r[:, None] * stride_x + i[None, :], r[:, None] * inputs + i[None, :],
            r_ok[:, None] & i_ok[None, :], BEFORE,
        )  # fmt: skip
        right = tl.load(
            weight + o[:, None] * stride_o + i[None, :] * stride_i,
            mask=o_ok[:, None] & i_ok[None, :],
            other=0.0,
        )
        total += left[:, None, :] * right[None, :, :]
    value = tl.sum(total, axis=2) * alpha
    ok = r_ok[:, None] & o_ok[None, :]
    if AFTER == "bias" or AFTER == "activation":
        value += (tl.load(bias + o, mask=o_ok, other=0.0) * beta)[None, :]
    if AFTER == "activation":
        value = tl.maximum(value, value * SLOPE)
    if AFTER == "inverse root":
        value = 1.0 / tl.sqrt(value + beta)
    if AFTER == "style":
        value *= tl.load(style + r[:, None] * stride_s + o[None, :], mask=ok, other=0.0)
    tl.store(out + r[:, None] * outputs + o[None, :], value, mask=ok)


def times_weight(
    x_RI: Tensor, weight_OI: Tensor, out_RO: Tensor, before: str, after: str, alpha: float = 1.0, beta: float = 0.0,
    gate_RI: Tensor | None = None, bias_O: Tensor | None = None, style_RO: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """out_RO, filled with after(alpha * before(x) weight^T).

    before: "nothing", "square", "slope" (of the leaky ReLU that made the gate) or "inverse root" (its gradient, where
    the gate is the root). after: "nothing", "bias" (times beta), "activation" (bias, then leaky ReLU), "inverse root"
    (of the product plus beta) or "style" (times it). The last dimension of x and style is contiguous, gate and out are.
    """
    rows, inputs = x_RI.shape
    outputs = len(weight_OI)
    block_r = FEW_ROWS if rows <= FEW_ROWS else ROWS
    _rows_kernel[(cdiv(outputs, OUTPUTS), cdiv(rows, block_r))](
        x_RI, gate_RI if gate_RI is not None else x_RI, weight_OI, bias_O if bias_O is not None else x_RI,
        style_RO if style_RO is not None else x_RI, out_RO, rows, outputs, inputs, x_RI.stride(0), *weight_OI.stride(),
        0 if style_RO is None else style_RO.stride(0), alpha, beta, BEFORE=before, AFTER=after,
        BLOCK_R=block_r, BLOCK_O=OUTPUTS, BLOCK_I=INPUTS, num_warps=4,
    )  # fmt: skip
    return out_RO


@triton.jit
def _outer_kernel(
    grad, gate, x, out, sums, rows, outputs, inputs, stride_g, stride_x, alpha, beta,
    BEFORE: tl.constexpr, SUMS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """out OI = alpha * sum over R of before(grad RO) * x RI, and sums O = beta * that of before(grad)."""
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    o_ok, i_ok = o < outputs, i < inputs
    total = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    over_rows = tl.zeros((BLOCK_O,), tl.float32)
    for first in range(0, rows, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        r_ok = r < rows
        left = _given(
            grad, gate, r[None, :] * stride_g + o[:, None], r[None, :] * outputs + o[:, None],
            o_ok[:, None] & r_ok[None, :], BEFORE,
        )  # fmt: skip
        right = tl.load(x + r[:, None] * stride_x + i[None, :], mask=r_ok[:, None] & i_ok[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
        over_rows += tl.sum(left, axis=1)
    tl.store(out + o[:, None] * inputs + i[None, :], total * alpha, mask=o_ok[:, None] & i_ok[None, :])
    if SUMS:
        tl.store(sums + o, over_rows * beta, mask=o_ok & (tl.program_id(1) == 0))


def outer_product(
    grad_RO: Tensor, x_RI: Tensor, out_OI: Tensor, before: str, alpha: float, gate_RO: Tensor | None = None,
    sums_O: Tensor | None = None, beta: float = 0.0,
) -> Tensor:  # fmt: skip
    """out_OI, filled with alpha * before(grad)^T x. sums_O: filled with beta times before(grad), summed over rows."""
    rows, outputs = grad_RO.shape
    inputs = x_RI.shape[1]
    _outer_kernel[(cdiv(outputs, OUTER_OUTPUTS), cdiv(inputs, OUTER_INPUTS))](
        grad_RO, gate_RO if gate_RO is not None else grad_RO, x_RI, out_OI, sums_O if sums_O is not None else out_OI,
        rows, outputs, inputs, grad_RO.stride(0), x_RI.stride(0), alpha, beta, BEFORE=before, SUMS=sums_O is not None,
        BLOCK_R=OUTER_ROWS, BLOCK_O=OUTER_OUTPUTS, BLOCK_I=OUTER_INPUTS, num_warps=4,
    )  # fmt: skip
    return out_OI
