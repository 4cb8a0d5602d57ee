"""SDF and deformation at all vertices of rectangular lattices, from the tri-planes, without stored features.

A lattice of n^3 vertices meets each plane at n^2 positions only: these are sampled first (`SamplePlanes`). Then a
program takes one x, walks over y, and for a run of z adds the three feature rows and applies both modulated MLPs
(one hidden layer each) in registers. What would be a 32 x N feature tensor and its hidden layers, N vertices,
never exists.

Shape legend: B batch, R plane resolution, C features, M hidden width, Q sampled plane positions, n lattice side,
N vertices
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import GAIN, SLOPE, cdiv, channels_last

BLOCK_K = 64
HEADS = 4
"""Output rows of the two MLPs together: one SDF value, three of the deformation."""


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


@triton.jit
def _fields_backward_kernel(
    grad, samples, w_sdf, b_sdf, w_def, b_def, v_B4M, grad_samples, sums, Q, first_q, n, N, first_n,
    C: tl.constexpr, M: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sums: a row of SIZE per program: w_sdf (MC), b_sdf (M), w_def (MC), b_def (M), v (4M)."""
    i = tl.program_id(0)
    k = tl.program_id(1) * K + tl.arange(0, K)
    b = tl.program_id(2).to(tl.int64)
    k_ok = k < n
    c, m = tl.arange(0, C), tl.arange(0, M)
    base = (b * Q + first_q) * C
    plane = n * n * C
    weight_s = tl.load(w_sdf + b * M * C + m[:, None] * C + c[None, :])
    weight_d = tl.load(w_def + b * M * C + m[:, None] * C + c[None, :])
    bias_s, bias_d = tl.load(b_sdf + m), tl.load(b_def + m)
    at_v = v_B4M + b * 4 * M + m
    v0, v1, v2, v3 = tl.load(at_v), tl.load(at_v + M), tl.load(at_v + 2 * M), tl.load(at_v + 3 * M)
    at_xz = base + 2 * plane + (i * n + k)[:, None] * C + c[None, :]
    xz = tl.load(samples + at_xz, mask=k_ok[:, None], other=0.0)
    g_xz = tl.zeros((K, C), tl.float32)
    sum_ws = tl.zeros((M, C), tl.float32)
    sum_wd = tl.zeros((M, C), tl.float32)
    sum_bs = tl.zeros((M,), tl.float32)
    sum_bd = tl.zeros((M,), tl.float32)
    sum_v0 = tl.zeros((M,), tl.float32)
    sum_v1 = tl.zeros((M,), tl.float32)
    sum_v2 = tl.zeros((M,), tl.float32)
    sum_v3 = tl.zeros((M,), tl.float32)
    for j in range(n):
        xy = tl.load(samples + base + (i * n + j) * C + c)
        at_yz = base + plane + (j * n + k)[:, None] * C + c[None, :]
        yz = tl.load(samples + at_yz, mask=k_ok[:, None], other=0.0)
        features = xz + yz + xy[None, :]
        at = grad + (b * N + first_n + (i * n + j) * n + k) * 4
        g0 = tl.load(at, mask=k_ok, other=0.0)
        g1 = tl.load(at + 1, mask=k_ok, other=0.0)
        g2 = tl.load(at + 2, mask=k_ok, other=0.0)
        g3 = tl.load(at + 3, mask=k_ok, other=0.0)
        raw = tl.dot(features, tl.trans(weight_s), input_precision=PRECISION) + bias_s[None, :]
        slope = tl.where(raw > 0, GAIN, GAIN * SLOPE)
        sum_v0 += tl.sum(g0[:, None] * raw * slope, axis=0)
        g_raw = g0[:, None] * v0[None, :] * slope
        sum_bs += tl.sum(g_raw, axis=0)
        sum_ws += tl.dot(tl.trans(g_raw), features, input_precision="tf32")
        g_features = tl.dot(g_raw, weight_s, input_precision="tf32")
        raw = tl.dot(features, tl.trans(weight_d), input_precision=PRECISION) + bias_d[None, :]
        slope = tl.where(raw > 0, GAIN, GAIN * SLOPE)
        hidden = raw * slope
        sum_v1 += tl.sum(g1[:, None] * hidden, axis=0)
        sum_v2 += tl.sum(g2[:, None] * hidden, axis=0)
        sum_v3 += tl.sum(g3[:, None] * hidden, axis=0)
        g_raw = (g1[:, None] * v1[None, :] + g2[:, None] * v2[None, :] + g3[:, None] * v3[None, :]) * slope
        sum_bd += tl.sum(g_raw, axis=0)
        sum_wd += tl.dot(tl.trans(g_raw), features, input_precision="tf32")
        g_features += tl.dot(g_raw, weight_d, input_precision="tf32")
        g_features = tl.where(k_ok[:, None], g_features, 0.0)
        g_xz += g_features
        tl.atomic_add(grad_samples + base + (i * n + j) * C + c, tl.sum(g_features, axis=0), sem="relaxed")
        tl.atomic_add(grad_samples + at_yz, g_features, mask=k_ok[:, None], sem="relaxed")
    tl.store(grad_samples + at_xz, g_xz, mask=k_ok[:, None])
    program = i * tl.num_programs(1) + tl.program_id(1)
    at = sums + (b * tl.num_programs(0) * tl.num_programs(1) + program) * SIZE
    tl.store(at + m[:, None] * C + c[None, :], sum_ws)
    tl.store(at + M * C + m, sum_bs)
    at += M * C + M
    tl.store(at + m[:, None] * C + c[None, :], sum_wd)
    tl.store(at + M * C + m, sum_bd)
    at += M * C + M
    tl.store(at + m, sum_v0)
    tl.store(at + M + m, sum_v1)
    tl.store(at + 2 * M + m, sum_v2)
    tl.store(at + 3 * M + m, sum_v3)


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
        batch, num_q, channels = samples.shape
        hidden = w_sdf.shape[1]
        size = 2 * (hidden * channels + hidden) + 4 * hidden
        grad_samples = torch.zeros_like(samples)
        parts = []
        total = sum(n**3 for n in ctx.sides)
        first_q = first_n = 0
        for n in ctx.sides:
            chunks = cdiv(n, BLOCK_K)
            sums = torch.empty((batch, n * chunks, size), device=grad.device, dtype=torch.float32)
            _fields_backward_kernel[(n, chunks, batch)](
                grad, samples, w_sdf, b_sdf, w_def, b_def, v_B4M, grad_samples, sums,
                num_q, first_q, n, total, first_n, **ctx.sizes, SIZE=size, num_warps=4,
            )  # fmt: skip
            parts.append(sums.sum(dim=1))
            first_q, first_n = first_q + 3 * n * n, first_n + n**3
        shares = sum(parts).split([hidden * channels, hidden, hidden * channels, hidden, 4 * hidden], dim=1)
        return (
            grad_samples,
            shares[0].view(batch, hidden, channels),
            shares[1].sum(dim=0),
            shares[2].view(batch, hidden, channels),
            shares[3].sum(dim=0),
            shares[4].view(batch, 4, hidden),
            grad.sum(dim=(0, 1)),
            None, None,
        )  # fmt: skip
