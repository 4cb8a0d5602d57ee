"""SDF and deformation at all vertices of rectangular lattices, from the tri-planes, without stored features.

A lattice of n^3 vertices meets each plane at n^2 positions only: these are sampled first (`SamplePlanes`). Then a
program takes one x, walks over y, and for a run of z adds the three feature rows and applies both modulated MLPs
(one hidden layer each) in registers. What would be a 32 x N feature tensor and its hidden layers, N vertices,
never exists. Backwards the hidden layers are applied to the samples, in which they are linear, and the three hidden rows
are added.

Shape legend: B batch, R plane resolution, C features, M hidden width, Q sampled plane positions, n lattice side,
N vertices
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import GAIN, SLOPE, cdiv, channels_last

BLOCK_K = 64
BLOCK_X, BLOCK_Z = 2, 4
HEADS = ((0, 1), (1, 3))
"""The outputs of the two MLPs, first and number: one SDF value, three of the deformation."""
ROWS_AT_A_TIME = 256


@triton.jit
def _sample_kernel(
    planes, plane_Q, row_Q, column_Q, weight_Q2, out, Q, R, BACKWARD: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out BQC = bilinear samples; backwards, adds `out` to the taps of `planes`."""
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(1).to(tl.int64)
    ok = q < Q
    plane = tl.load(plane_Q + q, mask=ok, other=0)
    row = tl.load(row_Q + q, mask=ok, other=0)
    column = tl.load(column_Q + q, mask=ok, other=0)
    weight_r = tl.load(weight_Q2 + q * 2, mask=ok, other=0.0)
    weight_c = tl.load(weight_Q2 + q * 2 + 1, mask=ok, other=0.0)
    c = tl.arange(0, C)
    at_out = (b * Q + q)[:, None] * C + c[None, :]
    total = tl.zeros((BLOCK, C), tl.float32)
    if BACKWARD:
        total = tl.load(out + at_out, mask=ok[:, None], other=0.0)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            r = row + i
            k = column + j
            weight = (weight_r if i == 1 else 1.0 - weight_r) * (weight_c if j == 1 else 1.0 - weight_c)
            inside = ok & (r >= 0) & (r < R) & (k >= 0) & (k < R)
            at = ((b * R + r) * R + k)[:, None] * (3 * C) + (plane * C)[:, None] + c[None, :]
            if BACKWARD:
                tl.atomic_add(planes + at, total * weight[:, None], mask=inside[:, None], sem="relaxed")
            else:
                total += tl.load(planes + at, mask=inside[:, None], other=0.0) * weight[:, None]
    if not BACKWARD:
        tl.store(out + at_out, total, mask=ok[:, None])


class SamplePlanes(Function):
    """B(3C)RR planes -> BQC features at fixed positions (plane index, lower row and column, upper weights)."""

    @staticmethod
    def forward(ctx, planes, plane_Q, row_Q, column_Q, weight_Q2) -> Tensor:
        planes = channels_last(planes)
        batch, channels, resolution = planes.shape[0], planes.shape[1] // 3, planes.shape[2]
        out = torch.empty((batch, len(plane_Q), channels), device=planes.device, dtype=torch.float32)
        _sample_kernel[(cdiv(len(plane_Q), 64), batch)](
            planes, plane_Q, row_Q, column_Q, weight_Q2, out, len(plane_Q), resolution,
            BACKWARD=False, C=channels, BLOCK=64,
        )  # fmt: skip
        ctx.save_for_backward(plane_Q, row_Q, column_Q, weight_Q2)
        ctx.shape = planes.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        plane_Q, row_Q, column_Q, weight_Q2 = ctx.saved_tensors
        batch, channels, resolution = ctx.shape[0], ctx.shape[1] // 3, ctx.shape[2]
        planes = torch.empty(
            ctx.shape, device=grad.device, dtype=torch.float32, memory_format=torch.channels_last
        ).zero_()
        _sample_kernel[(cdiv(len(plane_Q), 64), batch)](
            planes, plane_Q, row_Q, column_Q, weight_Q2, grad.contiguous(), len(plane_Q), resolution,
            BACKWARD=True, C=channels, BLOCK=64,
        )  # fmt: skip
        return planes, None, None, None, None


@triton.jit
def _fields_kernel(
    samples, w_sdf, b_sdf, w_def, b_def, v_B4M, c_4, out, Q, first_q, n, N, first_n,
    C: tl.constexpr, M: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w_*: BMC hidden weights; v_B4M, c_4: output rows (the SDF's, then the deformation's three) and biases."""
    i = tl.program_id(0)
    k = tl.program_id(1) * K + tl.arange(0, K)
    b = tl.program_id(2).to(tl.int64)
    k_ok = k < n
    c, m = tl.arange(0, C), tl.arange(0, M)
    base = (b * Q + first_q) * C
    plane = n * n * C
    weight_s = tl.load(w_sdf + b * M * C + m[None, :] * C + c[:, None])
    weight_d = tl.load(w_def + b * M * C + m[None, :] * C + c[:, None])
    bias_s, bias_d = tl.load(b_sdf + m), tl.load(b_def + m)
    at_v = v_B4M + b * 4 * M + m
    v0, v1, v2, v3 = tl.load(at_v), tl.load(at_v + M), tl.load(at_v + 2 * M), tl.load(at_v + 3 * M)
    c0, c1, c2, c3 = tl.load(c_4), tl.load(c_4 + 1), tl.load(c_4 + 2), tl.load(c_4 + 3)
    xz = tl.load(
        samples + base + 2 * plane + (i * n + k)[:, None] * C + c[None, :], mask=k_ok[:, None], other=0.0
    )
    for j in range(n):
        xy = tl.load(samples + base + (i * n + j) * C + c)
        yz = tl.load(
            samples + base + plane + (j * n + k)[:, None] * C + c[None, :], mask=k_ok[:, None], other=0.0
        )
        features = xz + yz + xy[None, :]
        hidden = tl.dot(features, weight_s, input_precision=PRECISION) + bias_s[None, :]
        hidden = tl.maximum(hidden, hidden * SLOPE) * GAIN
        at = out + (b * N + first_n + (i * n + j) * n + k) * 4
        tl.store(at, tl.sum(hidden * v0[None, :], axis=1) + c0, mask=k_ok)
        hidden = tl.dot(features, weight_d, input_precision=PRECISION) + bias_d[None, :]
        hidden = tl.maximum(hidden, hidden * SLOPE) * GAIN
        tl.store(at + 1, tl.sum(hidden * v1[None, :], axis=1) + c1, mask=k_ok)
        tl.store(at + 2, tl.sum(hidden * v2[None, :], axis=1) + c2, mask=k_ok)
        tl.store(at + 3, tl.sum(hidden * v3[None, :], axis=1) + c3, mask=k_ok)


@triton.jit(do_not_specialize_on_alignment=["hidden", "grad_hidden"])
def _head_backward_kernel(
    grad, hidden, bias, v_B4M, grad_hidden, sums, Q, P, first_q, n, N, first_n,
    FIRST: tl.constexpr, ROWS: tl.constexpr, M: tl.constexpr, X: tl.constexpr, Z: tl.constexpr,
):  # fmt: skip
    """One of the MLPs, whose hidden layer is linear in the samples and so applied to them already: hidden BQ(2M),
    grad_hidden BP(2M), padded.

    FIRST, ROWS: its outputs among the four. sums: a row of 4M per program, the shares of v_B4M. A program, one warp, has
    X neighbouring x and Z neighbouring z; a lane has their sums for its features, in registers. So what neighbours
    add to a row of plane (y, z) or (x, y) is one atomic operation, and lanes need not meet. For this, loads must not
    become vectors of four features: they would if pointers were known to be aligned.
    """
    i = tl.program_id(0) * X + tl.arange(0, X)
    k = tl.program_id(1) * Z + tl.arange(0, Z)
    b = tl.program_id(2).to(tl.int64)
    i_ok, k_ok = i < n, k < n
    ok = i_ok[:, None] & k_ok[None, :]
    m = tl.arange(0, M)
    half = M if FIRST > 0 else 0
    hidden += (b * Q + first_q) * 2 * M + half
    grad_hidden += (b * P + first_q) * 2 * M + half
    at_v = v_B4M + (b * 4 + FIRST) * M + m
    v0 = tl.load(at_v)
    sum0 = tl.zeros((Z, M), tl.float32)
    if ROWS == 3:
        v1, v2 = tl.load(at_v + M), tl.load(at_v + 2 * M)
        sum1 = tl.zeros((Z, M), tl.float32)
        sum2 = tl.zeros((Z, M), tl.float32)
    at_xy = (i * n)[:, None] * 2 * M + m[None, :]
    at_yz = (n * n + k)[:, None] * 2 * M + m[None, :]
    at_xz = (2 * n * n + i[:, None] * n + k[None, :])[:, :, None] * 2 * M + m[None, None, :]
    at_grad = grad + (b * N + first_n) * 4 + FIRST + (i[:, None] * n * n + k[None, :]) * 4
    xz = tl.load(hidden + at_xz, mask=ok[:, :, None], other=0.0) + tl.load(bias + half + m)[None, None, :]
    g_xz = tl.zeros((X, Z, M), tl.float32)
    # What the next y needs is asked for before this one is worked on.
    next_xy = tl.load(hidden + at_xy, mask=i_ok[:, None], other=0.0)
    next_yz = tl.load(hidden + at_yz, mask=k_ok[:, None], other=0.0)
    next_g0 = tl.load(at_grad, mask=ok, other=0.0)
    if ROWS == 3:
        next_g1 = tl.load(at_grad + 1, mask=ok, other=0.0)
        next_g2 = tl.load(at_grad + 2, mask=ok, other=0.0)
    for j in range(n):
        raw = xz + next_yz[None, :, :] + next_xy[:, None, :]
        g0 = next_g0[:, :, None]
        if ROWS == 3:
            g1, g2 = next_g1[:, :, None], next_g2[:, :, None]
        more = j + 1 < n
        next_xy = tl.load(hidden + at_xy + 2 * M, mask=i_ok[:, None] & more, other=0.0)
        next_yz = tl.load(hidden + at_yz + n * 2 * M, mask=k_ok[:, None] & more, other=0.0)
        next_g0 = tl.load(at_grad + n * 4, mask=ok & more, other=0.0)
        if ROWS == 3:
            next_g1 = tl.load(at_grad + n * 4 + 1, mask=ok & more, other=0.0)
            next_g2 = tl.load(at_grad + n * 4 + 2, mask=ok & more, other=0.0)
        slope = tl.where(raw > 0, GAIN, GAIN * SLOPE)
        value = raw * slope
        sum0 += tl.sum(g0 * value, axis=0)
        g = g0 * v0[None, None, :]
        if ROWS == 3:
            sum1 += tl.sum(g1 * value, axis=0)
            sum2 += tl.sum(g2 * value, axis=0)
            g += g1 * v1[None, None, :] + g2 * v2[None, None, :]
        g *= slope
        g_xz += g
        tl.atomic_add(grad_hidden + at_yz, tl.sum(g, axis=0), mask=k_ok[:, None], sem="relaxed")
        tl.atomic_add(grad_hidden + at_xy, tl.sum(g, axis=1), mask=i_ok[:, None], sem="relaxed")
        at_xy += 2 * M
        at_yz += n * 2 * M
        at_grad += n * 4
    tl.store(grad_hidden + at_xz, g_xz, mask=ok[:, :, None])
    program = (b * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(1) + tl.program_id(1)
    at = sums + (program * 4 + FIRST) * M + m
    tl.store(at, tl.sum(sum0, axis=0))
    if ROWS == 3:
        tl.store(at + M, tl.sum(sum1, axis=0))
        tl.store(at + 2 * M, tl.sum(sum2, axis=0))


class LatticeFields(Function):
    """(samples BQC, weights) -> BN4: raw SDF and raw deformation at every vertex, lattice after lattice.

    sides: n of each lattice; samples are ordered lattice, plane (xy, yz, xz), row-major in that plane's axes.
    precision: of the forward matrix products, "tf32x3" (about float32) or "tf32".
    """

    @staticmethod
    def forward(ctx, samples, w_sdf, b_sdf, w_def, b_def, v_B4M, c_4, sides, precision) -> Tensor:
        w_sdf, w_def, v_B4M = w_sdf.contiguous(), w_def.contiguous(), v_B4M.contiguous()
        batch, num_q, channels = samples.shape
        total = sum(n**3 for n in sides)
        out = torch.empty((batch, total, 4), device=samples.device, dtype=torch.float32)
        ctx.sizes = {"C": channels, "M": w_sdf.shape[1], "K": BLOCK_K, "PRECISION": precision}
        ctx.sides = sides
        first_q = first_n = 0
        for n in sides:
            _fields_kernel[(n, cdiv(n, BLOCK_K), batch)](
                samples, w_sdf, b_sdf, w_def, b_def, v_B4M, c_4, out, num_q, first_q, n, total, first_n,
                **ctx.sizes, num_warps=4,
            )  # fmt: skip
            first_q, first_n = first_q + 3 * n * n, first_n + n**3
        ctx.save_for_backward(samples, w_sdf, b_sdf, w_def, b_def, v_B4M)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        samples, w_sdf, b_sdf, w_def, b_def, v_B4M = ctx.saved_tensors
        grad = grad.contiguous()
        batch, num_q, _ = samples.shape
        width = w_sdf.shape[1]
        weight, bias = torch.cat([w_sdf, w_def], dim=1), torch.cat([b_sdf, b_def])
        hidden = torch.bmm(samples, weight.transpose(1, 2))
        grad_hidden = hidden.new_zeros((batch, _padded(num_q), 2 * width))
        total = sum(n**3 for n in ctx.sides)
        grad_v, grad_bias = torch.zeros_like(v_B4M), torch.zeros_like(bias)
        first_q = first_n = 0
        for n in ctx.sides:
            grid = (cdiv(n, BLOCK_X), cdiv(n, BLOCK_Z), batch)
            sums = torch.empty((batch, grid[0] * grid[1], *v_B4M.shape[1:]), device=grad.device)
            for first, rows in HEADS:
                _head_backward_kernel[grid](
                    grad, hidden, bias, v_B4M, grad_hidden, sums, num_q, grad_hidden.shape[1], first_q, n, total, first_n,
                    FIRST=first, ROWS=rows, M=width, X=BLOCK_X, Z=BLOCK_Z, num_warps=1,
                )  # fmt: skip
            grad_v += sums.sum(dim=1)
            # A vertex meets each plane once, so the rows of any one plane add up to the bias's gradient.
            grad_bias += grad_hidden[:, first_q : first_q + n * n].sum(dim=(0, 1))
            first_q, first_n = first_q + 3 * n * n, first_n + n**3
        grad_samples = torch.bmm(grad_hidden[:, :num_q], weight)
        grad_weight = _summed_products(grad_hidden, samples)
        return (
            grad_samples,
            grad_weight[:, :width],
            grad_bias[:width],
            grad_weight[:, width:],
            grad_bias[width:],
            grad_v,
            grad.sum(dim=(0, 1)),
            None, None,
        )  # fmt: skip


def _padded(rows: int) -> int:
    return cdiv(rows, ROWS_AT_A_TIME) * ROWS_AT_A_TIME


def _summed_products(grad_BPH: Tensor, samples_BQC: Tensor) -> Tensor:
    """BHC, the sum over rows: a product alone would give each of its few results to one multiprocessor. P is Q, padded."""
    samples_BPC = F.pad(samples_BQC, (0, 0, 0, grad_BPH.shape[1] - samples_BQC.shape[1]))
    parts = [x.unflatten(1, (-1, ROWS_AT_A_TIME)).flatten(0, 1) for x in (grad_BPH, samples_BPC)]
    products = torch.bmm(parts[0].transpose(1, 2), parts[1])
    return products.unflatten(0, (len(samples_BQC), -1)).sum(dim=1)
