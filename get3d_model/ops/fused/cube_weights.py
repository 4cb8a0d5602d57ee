"""Raw weights of all cubes of a lattice: what follows the first layer of their MLP, without stored hidden values.

The first layer's output at a cube is a sum of one row of each plane (see `networks/cube_weights.py`). A program
takes one x, walks over y, and for a run of z adds the three rows and applies the leaky ReLU and the last layer in
registers; the backward pass does it again. What would be an M x Q tensor of hidden values, its gradient, and
matrix products that sum over all cubes, never exists.

Shape legend: B batch, M hidden width, O weights of a cube, q cubes along one side, P plane positions (3 q^2),
Q cubes (q^3)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import SLOPE, cdiv

BLOCK_K = 32
"""90 cubes along a side fill three runs nearly, and two of 64 by two thirds."""


@triton.jit
def _cube_weights_kernel(
    planes, v_BOM, c_O, out, q, outputs,
    M: tl.constexpr, O_PAD: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """planes BPM: the rows of plane (x, y), (y, z), (x, z); v_BOM, c_O: the last layer."""
    i = tl.program_id(0)
    k = tl.program_id(1) * K + tl.arange(0, K)
    b = tl.program_id(2).to(tl.int64)
    k_ok = k < q
    m, o = tl.arange(0, M), tl.arange(0, O_PAD)
    o_ok = o < outputs
    plane = q * q * M
    planes += b * 3 * plane
    weight = tl.load(v_BOM + (b * outputs + o[None, :]) * M + m[:, None], mask=o_ok[None, :], other=0.0)
    bias = tl.load(c_O + o, mask=o_ok, other=0.0)
    xz = tl.load(planes + 2 * plane + (i * q + k)[:, None] * M + m[None, :], mask=k_ok[:, None], other=0.0)
    for j in range(q):
        xy = tl.load(planes + (i * q + j) * M + m)
        yz = tl.load(planes + plane + (j * q + k)[:, None] * M + m[None, :], mask=k_ok[:, None], other=0.0)
        hidden = xz + yz + xy[None, :]
        hidden = tl.maximum(hidden, hidden * SLOPE)
        values = tl.dot(hidden, weight, input_precision=PRECISION) + bias[None, :]
        cube = b * q * q * q + (i * q + j) * q + k
        tl.store(out + cube[:, None] * outputs + o[None, :], values, mask=k_ok[:, None] & o_ok[None, :])


@triton.jit
def _cube_weights_backward_kernel(
    grad, planes, v_BOM, grad_planes, sums, q, outputs,
    M: tl.constexpr, O_PAD: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """sums: a row per program: v (O_PAD x M), c (O_PAD)."""
    i = tl.program_id(0)
    k = tl.program_id(1) * K + tl.arange(0, K)
    b = tl.program_id(2).to(tl.int64)
    k_ok = k < q
    m, o = tl.arange(0, M), tl.arange(0, O_PAD)
    o_ok = o < outputs
    plane = q * q * M
    planes += b * 3 * plane
    grad_planes += b * 3 * plane
    weight = tl.load(v_BOM + (b * outputs + o[:, None]) * M + m[None, :], mask=o_ok[:, None], other=0.0)
    at_xz = 2 * plane + (i * q + k)[:, None] * M + m[None, :]
    xz = tl.load(planes + at_xz, mask=k_ok[:, None], other=0.0)
    g_xz = tl.zeros((K, M), tl.float32)
    sum_v = tl.zeros((O_PAD, M), tl.float32)
    sum_c = tl.zeros((O_PAD,), tl.float32)
    for j in range(q):
        at_xy = (i * q + j) * M + m
        at_yz = plane + (j * q + k)[:, None] * M + m[None, :]
        xy = tl.load(planes + at_xy)
        yz = tl.load(planes + at_yz, mask=k_ok[:, None], other=0.0)
        raw = xz + yz + xy[None, :]
        cube = b * q * q * q + (i * q + j) * q + k
        at = grad + cube[:, None] * outputs + o[None, :]
        g = tl.load(at, mask=k_ok[:, None] & o_ok[None, :], other=0.0)
        sum_v += tl.dot(tl.trans(g), tl.maximum(raw, raw * SLOPE), input_precision="tf32")
        sum_c += tl.sum(g, axis=0)
        # Zero beyond the last cube, as g is.
        g_raw = tl.dot(g, weight, input_precision="tf32")
        g_raw = tl.where(raw > 0, g_raw, g_raw * SLOPE)
        g_xz += g_raw
        tl.atomic_add(grad_planes + at_xy, tl.sum(g_raw, axis=0), sem="relaxed")
        tl.atomic_add(grad_planes + at_yz, g_raw, mask=k_ok[:, None], sem="relaxed")
    tl.store(grad_planes + at_xz, g_xz, mask=k_ok[:, None])
    program = (b * tl.num_programs(0) + i) * tl.num_programs(1) + tl.program_id(1)
    at_sum = sums + program * (O_PAD * M + O_PAD)
    tl.store(at_sum + o[:, None] * M + m[None, :], sum_v)
    tl.store(at_sum + O_PAD * M + o, sum_c)


class CubeWeights(Function):
    """(planes BPM, last layer's weight BOM and bias O) -> BQO: leaky ReLU of the sum of three rows, last layer.

    planes: row-major in its axes (x, y), then (y, z), then (x, z). M is a power of two from 16 on.
    precision: of the forward matrix product, "tf32x3" (about float32) or "tf32"; the backward pass uses TF32.
    """

    @staticmethod
    def forward(ctx, planes, v_BOM, c_O, side: int, precision: str = "tf32x3") -> Tensor:
        planes, v_BOM, c_O = planes.contiguous(), v_BOM.contiguous(), c_O.contiguous()
        batch, outputs, hidden = v_BOM.shape
        out = torch.empty((batch, side**3, outputs), device=planes.device, dtype=torch.float32)
        ctx.sizes = {"M": hidden, "O_PAD": max(16, triton.next_power_of_2(outputs)), "K": BLOCK_K}
        ctx.side = side
        _cube_weights_kernel[(side, cdiv(side, BLOCK_K), batch)](
            planes, v_BOM, c_O, out, side, outputs, **ctx.sizes, PRECISION=precision, num_warps=4
        )
        ctx.save_for_backward(planes, v_BOM)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        planes, v_BOM = ctx.saved_tensors
        batch, outputs, hidden = v_BOM.shape
        side, padded, chunks = ctx.side, ctx.sizes["O_PAD"], cdiv(ctx.side, BLOCK_K)
        grad_planes = torch.zeros_like(planes)
        sums = torch.empty((batch, side * chunks, padded * (hidden + 1)), device=grad.device)
        _cube_weights_backward_kernel[(side, chunks, batch)](
            grad.contiguous(), planes, v_BOM, grad_planes, sums, side, outputs, **ctx.sizes, num_warps=4
        )
        grad_v, grad_c = sums.sum(dim=1).split([padded * hidden, padded], dim=1)
        grad_v_BOM = grad_v.view(batch, padded, hidden)[:, :outputs]
        return grad_planes, grad_v_BOM, grad_c[:, :outputs].sum(dim=0), None, None
