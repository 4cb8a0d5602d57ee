"""The rule for shapes of one sign: two passes over the SDFs, none over the deformations but in the backward pass.

Shape legend: B batch, N grid vertices, R runs of vertices
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import cdiv

RUN = 2048
BLOCK = 1024
WARPS = 8


@triton.jit
def _survey_kernel(sdf_BN, tested_N, sign_BR, sum_BR, N, RUN_: tl.constexpr):
    """Per run: bit 0 set where a tested value is positive, bit 1 where one is negative; sum of |sdf|."""
    run, shape = tl.program_id(0), tl.program_id(1)
    vertex = run * RUN_ + tl.arange(0, RUN_)
    ok = vertex < N
    value = tl.load(sdf_BN + shape.to(tl.int64) * N + vertex, mask=ok, other=0.0)
    tested = tl.load(tested_N + vertex, mask=ok, other=0) != 0
    positive = tl.max((tested & (value > 0)).to(tl.int32))
    negative = tl.max((tested & (value < 0)).to(tl.int32))
    at = shape * tl.num_programs(0) + run
    tl.store(sign_BR + at, positive + 2 * negative)
    tl.store(sum_BR + at, tl.sum(tl.abs(value)))


@triton.jit
def _repair_kernel(
    sdf_BN, boundary_N, center, sign_BR, sum_BR, repaired_BN, empty_B, pull_B, N, runs, ALL_RUNS: tl.constexpr,
    BLOCK_: tl.constexpr,
):  # fmt: skip
    block, shape = tl.program_id(0), tl.program_id(1)
    run = tl.arange(0, ALL_RUNS)
    sign = tl.load(sign_BR + shape * runs + run, mask=run < runs, other=0)
    empty = (tl.max(sign & 1) == 0) | (tl.max(sign >> 1) == 0)
    if block == 0:
        mean = tl.sum(tl.load(sum_BR + shape * runs + run, mask=run < runs, other=0.0)) / N
        tl.store(empty_B + shape, empty.to(tl.uint8))
        tl.store(pull_B + shape, tl.where(empty, mean, 0.0))
    vertex = block * BLOCK_ + tl.arange(0, BLOCK_)
    ok = vertex < N
    at = shape.to(tl.int64) * N + vertex
    value = tl.load(sdf_BN + at, mask=ok, other=0.0)
    if empty:
        boundary = tl.load(boundary_N + vertex, mask=ok, other=0) != 0
        value = tl.where(boundary, -1.0, value)
        value = tl.where(vertex == tl.load(center), 1.0, value)
    tl.store(repaired_BN + at, value, mask=ok)


@triton.jit
def _backward_kernel(
    grad_BN, grad_deform_BN3, grad_pull_B, sdf_BN, empty_B, out_BN, out_deform_BN3, N, BLOCK_: tl.constexpr
):
    block, shape = tl.program_id(0), tl.program_id(1)
    vertex = block * BLOCK_ + tl.arange(0, BLOCK_)
    ok = vertex < N
    first = shape.to(tl.int64) * N
    empty = tl.load(empty_B + shape) != 0
    if empty:
        value = tl.load(sdf_BN + first + vertex, mask=ok, other=0.0)
        sign = (value > 0).to(tl.float32) - (value < 0).to(tl.float32)
        tl.store(out_BN + first + vertex, sign * (tl.load(grad_pull_B + shape) / N), mask=ok)
    else:
        tl.store(out_BN + first + vertex, tl.load(grad_BN + first + vertex, mask=ok, other=0.0), mask=ok)
    for part in tl.static_range(3):
        entry = (block * 3 + part) * BLOCK_ + tl.arange(0, BLOCK_)
        # An empty shape's gradient is not read: zero even where it is not finite.
        grad = tl.load(grad_deform_BN3 + first * 3 + entry, mask=(entry < 3 * N) & (empty == 0), other=0.0)
        tl.store(out_deform_BN3 + first * 3 + entry, grad, mask=entry < 3 * N)


class RepairEmptyShapes(Function):
    """(sdf_BN, deform_BN3) float32 -> (repaired sdf, deform, empty_B, regulariser_B); see `repair_empty_shapes`."""

    @staticmethod
    def forward(
        ctx, sdf_BN: Tensor, deform_BN3: Tensor, tested_N: Tensor, boundary_N: Tensor, center_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sdf_BN = sdf_BN.contiguous()
        batch, num = sdf_BN.shape
        runs = cdiv(num, RUN)
        sign_BR = torch.empty((batch, runs), device=sdf_BN.device, dtype=torch.int32)
        sum_BR = torch.empty((batch, runs), device=sdf_BN.device, dtype=torch.float32)
        empty_B = torch.empty(batch, device=sdf_BN.device, dtype=torch.bool)
        pull_B = torch.empty(batch, device=sdf_BN.device, dtype=torch.float32)
        repaired_BN = torch.empty_like(sdf_BN)
        _survey_kernel[(runs, batch)](
            sdf_BN, tested_N.view(torch.uint8), sign_BR, sum_BR, num, RUN_=RUN, num_warps=WARPS
        )
        _repair_kernel[(cdiv(num, BLOCK), batch)](
            sdf_BN, boundary_N.view(torch.uint8), center_index, sign_BR, sum_BR, repaired_BN,
            empty_B.view(torch.uint8), pull_B, num, runs, ALL_RUNS=triton.next_power_of_2(runs), BLOCK_=BLOCK,
        )  # fmt: skip
        ctx.save_for_backward(sdf_BN, empty_B)
        ctx.mark_non_differentiable(empty_B)
        ctx.set_materialize_grads(False)
        # The values of the deformation stay; only its gradient changes.
        return repaired_BN, deform_BN3.view_as(deform_BN3), empty_B, pull_B

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BN: Tensor | None, grad_deform_BN3: Tensor | None, _, grad_pull_B: Tensor | None):
        sdf_BN, empty_B = ctx.saved_tensors
        batch, num = sdf_BN.shape

        def given(grad: Tensor | None, *shape: int) -> Tensor:
            return sdf_BN.new_zeros(shape) if grad is None else grad.contiguous()

        out_BN = torch.empty_like(sdf_BN)
        out_deform_BN3 = sdf_BN.new_empty((batch, num, 3))
        _backward_kernel[(cdiv(num, BLOCK), batch)](
            given(grad_BN, batch, num), given(grad_deform_BN3, batch, num, 3), given(grad_pull_B, batch), sdf_BN,
            empty_B.view(torch.uint8), out_BN, out_deform_BN3, num, BLOCK_=BLOCK,
        )  # fmt: skip
        return out_BN, out_deform_BN3, None, None, None
