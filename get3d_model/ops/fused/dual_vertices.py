"""Dual vertices of FlexiCubes and how unevenly they lie between the crossings around them, in one pass each way.

A program takes a run of dual vertices with all edges of their patches side by side; the backward pass does the
same again and adds the gradients of grid vertices and cubes in place.

Shape legend: B batch, N grid vertices, Q cubes, S surface cubes of the batch, D dual vertices of the batch,
7 slots for the edges of a patch, 8 the same padded
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import cdiv

BLOCK_D = 32


@triton.jit
def _signed(raw):
    """1 + tanh(raw) / 2, between 0.5 and 1.5."""
    return 0.5 + tl.sigmoid(2.0 * raw)


@triton.jit
def _signed_slope(value):
    """The derivative of `_signed` where it has this value: (1 - tanh^2) / 2."""
    tanh = 2.0 * (value - 1.0)
    return 0.5 * (1.0 - tanh * tanh)


@triton.jit
def _patch(
    d, ok, shape_S, cube_S, case_S, slot_D, patch_D, patch_edges, patch_size, cube_edges, cubes_Q8, N,
):  # fmt: skip
    """Of a run of patches: (row of the raw weights, edges, how many, their ends as corners, as vertices of B N)."""
    slot = tl.load(slot_D + d, mask=ok, other=0)
    patch = tl.load(patch_D + d, mask=ok, other=0)
    shape = tl.load(shape_S + slot, mask=ok, other=0)
    cube = tl.load(cube_S + slot, mask=ok, other=0)
    entry = tl.load(case_S + slot, mask=ok, other=0) * 4 + patch
    size = tl.load(patch_size + entry, mask=ok, other=0).to(tl.int32)
    e = tl.arange(0, 8)
    used = e[None, :] < size[:, None]
    edge = tl.load(patch_edges + entry[:, None] * 7 + e[None, :], mask=used, other=0)
    start = tl.load(cube_edges + edge * 2)
    end = tl.load(cube_edges + edge * 2 + 1)
    v_start = tl.load(cubes_Q8 + cube[:, None] * 8 + start)
    v_end = tl.load(cubes_Q8 + cube[:, None] * 8 + end)
    return slot * 21, edge, size, start, end, v_start, v_end, (shape * N)[:, None]


@triton.jit(do_not_specialize=["D"])
def _dual_vertices_kernel(
    sdf_BN, deform_BN3, raw_S21, shape_S, cube_S, case_S, slot_D, patch_D, patch_edges, patch_size, cube_edges,
    cubes_Q8, grid_N3, vertices_D3, deviation_D7, D, N, BLOCK: tl.constexpr,
):  # fmt: skip
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = d < D
    row, edge, size, start, end, v_start, v_end, base = _patch(
        d, ok, shape_S, cube_S, case_S, slot_D, patch_D, patch_edges, patch_size, cube_edges, cubes_Q8, N,
    )  # fmt: skip
    e = tl.arange(0, 8)
    used = e[None, :] < size[:, None]
    s_start = tl.load(sdf_BN + base + v_start, mask=used, other=1.0)
    s_end = tl.load(sdf_BN + base + v_end, mask=used, other=-1.0)
    plain = s_start / (s_start - s_end)
    a_start = s_start * _signed(tl.load(raw_S21 + row[:, None] + 12 + start, mask=used, other=0.0))
    a_end = s_end * _signed(tl.load(raw_S21 + row[:, None] + 12 + end, mask=used, other=0.0))
    scaled = a_start / (a_start - a_end)
    beta = _signed(tl.load(raw_S21 + row[:, None] + edge, mask=used, other=0.0))
    beta = tl.where(used, beta, 0.0)
    # Programs beyond the last dual vertex divide by one.
    total = tl.where(ok, tl.sum(beta, axis=1), 1.0)
    square = tl.zeros((BLOCK, 8), tl.float32)
    for axis in tl.static_range(3):
        p_start = tl.load(grid_N3 + v_start * 3 + axis)
        p_start += tl.load(deform_BN3 + (base + v_start) * 3 + axis, mask=used, other=0.0)
        p_end = tl.load(grid_N3 + v_end * 3 + axis)
        p_end += tl.load(deform_BN3 + (base + v_end) * 3 + axis, mask=used, other=0.0)
        vertex = tl.sum(beta * (p_start + scaled * (p_end - p_start)), axis=1) / total
        tl.store(vertices_D3 + d * 3 + axis, vertex, mask=ok)
        offset = p_start + plain * (p_end - p_start) - vertex[:, None]
        square += offset * offset
    distance = tl.where(used, tl.sqrt(square), 0.0)
    mean = tl.sum(distance, axis=1) / tl.maximum(size, 1).to(tl.float32)
    deviation = tl.where(used, tl.abs(distance - mean[:, None]), 0.0)
    tl.store(deviation_D7 + d[:, None] * 7 + e[None, :], deviation, mask=ok[:, None] & (e < 7)[None, :])


@triton.jit(do_not_specialize=["D"])
def _dual_vertices_backward_kernel(
    grad_vertices_D3, grad_deviation_D7, sdf_BN, deform_BN3, raw_S21, shape_S, cube_S, case_S, slot_D, patch_D,
    patch_edges, patch_size, cube_edges, cubes_Q8, grid_N3, vertices_D3, grad_sdf, grad_deform, grad_raw, D, N,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """With the point p = a + t (b - a), t = s_a / (s_a - s_b): dt/ds_a = (1 - t) / (s_a - s_b), dt/ds_b = t / (...)."""
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = d < D
    row, edge, size, start, end, v_start, v_end, base = _patch(
        d, ok, shape_S, cube_S, case_S, slot_D, patch_D, patch_edges, patch_size, cube_edges, cubes_Q8, N,
    )  # fmt: skip
    e = tl.arange(0, 8)
    used = e[None, :] < size[:, None]
    at_start, at_end = base + v_start, base + v_end
    s_start = tl.load(sdf_BN + at_start, mask=used, other=1.0)
    s_end = tl.load(sdf_BN + at_end, mask=used, other=-1.0)
    plain = s_start / (s_start - s_end)
    alpha_start = _signed(tl.load(raw_S21 + row[:, None] + 12 + start, mask=used, other=0.0))
    alpha_end = _signed(tl.load(raw_S21 + row[:, None] + 12 + end, mask=used, other=0.0))
    a_start, a_end = s_start * alpha_start, s_end * alpha_end
    scaled = a_start / (a_start - a_end)
    beta = _signed(tl.load(raw_S21 + row[:, None] + edge, mask=used, other=0.0))
    beta = tl.where(used, beta, 0.0)
    total = tl.where(ok, tl.sum(beta, axis=1), 1.0)

    square = tl.zeros((BLOCK, 8), tl.float32)
    for axis in tl.static_range(3):
        p_start = tl.load(grid_N3 + v_start * 3 + axis)
        p_start += tl.load(deform_BN3 + at_start * 3 + axis, mask=used, other=0.0)
        p_end = tl.load(grid_N3 + v_end * 3 + axis)
        p_end += tl.load(deform_BN3 + at_end * 3 + axis, mask=used, other=0.0)
        vertex = tl.load(vertices_D3 + d * 3 + axis, mask=ok, other=0.0)
        offset = p_start + plain * (p_end - p_start) - vertex[:, None]
        square += offset * offset
    distance = tl.where(used, tl.sqrt(square), 0.0)
    count = tl.maximum(size, 1).to(tl.float32)
    difference = distance - (tl.sum(distance, axis=1) / count)[:, None]
    g = tl.load(grad_deviation_D7 + d[:, None] * 7 + e[None, :], mask=used, other=0.0)
    g = tl.where(difference > 0, g, tl.where(difference < 0, -g, 0.0))
    g_distance = tl.where(used, g - (tl.sum(g, axis=1) / count)[:, None], 0.0)
    # A vertex on a crossing has distance 0 and passes nothing on.
    g_offset = tl.where(distance > 0, g_distance / tl.where(distance > 0, distance, 1.0), 0.0)

    g_scaled = tl.zeros((BLOCK, 8), tl.float32)
    g_plain = tl.zeros((BLOCK, 8), tl.float32)
    g_beta = tl.zeros((BLOCK, 8), tl.float32)
    for axis in tl.static_range(3):
        p_start = tl.load(grid_N3 + v_start * 3 + axis)
        p_start += tl.load(deform_BN3 + at_start * 3 + axis, mask=used, other=0.0)
        p_end = tl.load(grid_N3 + v_end * 3 + axis)
        p_end += tl.load(deform_BN3 + at_end * 3 + axis, mask=used, other=0.0)
        vertex = tl.load(vertices_D3 + d * 3 + axis, mask=ok, other=0.0)
        along = p_end - p_start
        g_from_plain = g_offset * (p_start + plain * along - vertex[:, None])
        g_vertex = tl.load(grad_vertices_D3 + d * 3 + axis, mask=ok, other=0.0) - tl.sum(g_from_plain, axis=1)
        g_vertex = (g_vertex / total)[:, None]
        g_from_scaled = g_vertex * beta
        g_beta += g_vertex * (p_start + scaled * along - vertex[:, None])
        g_scaled += g_from_scaled * along
        g_plain += g_from_plain * along
        g_start = g_from_scaled * (1.0 - scaled) + g_from_plain * (1.0 - plain)
        g_end = g_from_scaled * scaled + g_from_plain * plain
        tl.atomic_add(grad_deform + at_start * 3 + axis, g_start, mask=used, sem="relaxed")
        tl.atomic_add(grad_deform + at_end * 3 + axis, g_end, mask=used, sem="relaxed")
    g_scaled = g_scaled / (a_start - a_end)
    g_plain = g_plain / (s_start - s_end)
    ga_start, ga_end = g_scaled * (1.0 - scaled), g_scaled * scaled
    gs_start = ga_start * alpha_start + g_plain * (1.0 - plain)
    gs_end = ga_end * alpha_end + g_plain * plain
    tl.atomic_add(grad_sdf + at_start, gs_start, mask=used, sem="relaxed")
    tl.atomic_add(grad_sdf + at_end, gs_end, mask=used, sem="relaxed")
    at_alpha = grad_raw + row[:, None] + 12
    tl.atomic_add(at_alpha + start, ga_start * s_start * _signed_slope(alpha_start), mask=used, sem="relaxed")
    tl.atomic_add(at_alpha + end, ga_end * s_end * _signed_slope(alpha_end), mask=used, sem="relaxed")
    tl.atomic_add(grad_raw + row[:, None] + edge, g_beta * _signed_slope(beta), mask=used, sem="relaxed")


@dataclass(frozen=True)
class DualPlaces:
    """Where the dual vertices lie, and the fixed tables; contiguous, int64 but for grid_N3 (float32).

    shape_S, cube_S, case_S: of the surface cubes. slot_D, patch_D: surface cube and patch of each dual vertex.
    patch_edges, patch_size: 256 x 4 x 7 and 256 x 4; cube_edges: 12 x 2; cubes_Q8 (see `FlexiCubes`).
    """

    shape_S: Tensor
    cube_S: Tensor
    case_S: Tensor
    slot_D: Tensor
    patch_D: Tensor
    patch_edges: Tensor
    patch_size: Tensor
    cube_edges: Tensor
    cubes_Q8: Tensor
    grid_N3: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of the kernels' arguments."""
        return tuple(vars(self).values())


class DualVertices(Function):
    """(sdf_BN, deform_BN3, raw weights S21) -> (vertices_D3, deviation_D7), as `FlexiCubes` defines them; float32."""

    @staticmethod
    def forward(
        ctx, sdf_BN: Tensor, deform_BN3: Tensor, raw_S21: Tensor, places: DualPlaces
    ) -> tuple[Tensor, Tensor]:
        inputs = sdf_BN.contiguous(), deform_BN3.contiguous(), raw_S21.contiguous()
        count, num = len(places.slot_D), sdf_BN.shape[1]
        vertices_D3 = sdf_BN.new_empty(count, 3)
        deviation_D7 = sdf_BN.new_empty(count, 7)
        if count:
            _dual_vertices_kernel[(cdiv(count, BLOCK_D),)](
                *inputs, *places.tensors(), vertices_D3, deviation_D7, count, num, BLOCK=BLOCK_D
            )
        ctx.save_for_backward(*inputs, vertices_D3)
        ctx.places = places
        return vertices_D3, deviation_D7

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_D3: Tensor, grad_D7: Tensor):
        *inputs, vertices_D3 = ctx.saved_tensors
        gradients = tuple(torch.zeros_like(x) for x in inputs)
        if len(vertices_D3):
            _dual_vertices_backward_kernel[(cdiv(len(vertices_D3), BLOCK_D),)](
                grad_D3.contiguous(), grad_D7.contiguous(), *inputs, *ctx.places.tensors(), vertices_D3,
                *gradients, len(vertices_D3), inputs[0].shape[1], BLOCK=BLOCK_D,
            )  # fmt: skip
        return *gradients, None
