"""Squared distances between the points of many pairs of sets and their nearest neighbours, both ways, without a matrix
of distances.

A program is one warp. It keeps 256 points of one set in registers, 8 per lane, and streams the other set past them, 8
points at a time: each distance is computed once and used for both directions. The minimum over the streamed points
stays within a lane; the one over the kept points goes over the lanes by shuffles and over the programs by an atomic
minimum (squares are not negative, so their bits sort as integers).

Roofline, a pair of sets of 2048: 4.2 million distances of 9.6 instructions (6 of arithmetic, 2 minima, the rest
shuffles and loads; counted in the machine code for compute capability 9.0, 127 registers, nothing spilled) are 1.4 us of an
H200's 3e13 lane instructions per second. Memory is not touched beyond the points and the results.

Shape legend: S pairs of sets, P points that are kept, Q points that are streamed
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

KEPT, STREAMED = 256, 8
# Sizes that 16 divides let four coordinates be loaded at once.
_ALIGNED = 16
# Where padding lies: beyond all points, and the two kinds far from each other. Its square is a float32.
_FAR = 1.0e18


@triton.jit
def _nearest_kernel(
    points, others, forward, backward, P, Q, points_stride, blocks, BP: tl.constexpr, BQ: tl.constexpr
):
    """One block of kept points of one pair. Coordinates are S3P and S3Q, P and Q multiples of the blocks.
    points_stride: between sets; 0 where all pairs share the kept set. backward: int32, filled with a large float's bits."""
    number = tl.program_id(0).to(tl.int64)
    pair = number // blocks
    p = (number % blocks) * BP + tl.arange(0, BP)
    kept = points + pair * points_stride + p
    x = tl.load(kept)[None, :]
    y = tl.load(kept + P)[None, :]
    z = tl.load(kept + 2 * P)[None, :]
    best = tl.full((BP,), 3.0e38, tl.float32)
    q = tl.arange(0, BQ)
    streamed = others + pair * 3 * Q + q
    back = backward + pair * Q + q
    for first in range(0, Q, BQ):
        dx = x - tl.load(streamed + first)[:, None]
        dy = y - tl.load(streamed + (first + Q))[:, None]
        dz = z - tl.load(streamed + (first + 2 * Q))[:, None]
        square = dx * dx + dy * dy + dz * dz
        best = tl.minimum(best, tl.min(square, axis=0))
        tl.atomic_min(back + first, tl.min(square, axis=1).to(tl.int32, bitcast=True), sem="relaxed")
    tl.store(forward + pair * P + p, best)


def nearest_squared(points_SP3: Tensor, others_SQ3: Tensor) -> tuple[Tensor, Tensor]:
    """(SP, SQ) float32: from each point to the nearest other point of its pair, and from each other point back.

    `points` may be one set (S = 1), which then stands in every pair.
    """
    pairs, count, searched = len(others_SQ3), points_SP3.shape[1], others_SQ3.shape[1]
    points_S3P = _coordinates(points_SP3, KEPT, _FAR)
    others_S3Q = _coordinates(others_SQ3, _ALIGNED, -_FAR)
    padded, streamed = points_S3P.shape[2], others_S3Q.shape[2]
    forward_SP = torch.empty(pairs, padded, device=others_SQ3.device)
    backward_SQ = torch.full((pairs, streamed), 3.0e38, device=others_SQ3.device)
    blocks = padded // KEPT
    _nearest_kernel[(pairs * blocks,)](
        points_S3P, others_S3Q, forward_SP, backward_SQ.view(torch.int32), padded, streamed,
        0 if len(points_SP3) == 1 else 3 * padded, blocks, BP=KEPT, BQ=STREAMED, num_warps=1,
    )  # fmt: skip
    return forward_SP[:, :count], backward_SQ[:, :searched]


def _coordinates(sets_SN3: Tensor, multiple: int, far: float) -> Tensor:
    """S3N, padded to a multiple of points with `far`."""
    sets, count = sets_SN3.shape[:2]
    padded_S3N = torch.full(
        (sets, 3, triton.cdiv(count, multiple) * multiple), far, device=sets_SN3.device, dtype=torch.float32
    )
    padded_S3N[:, :, :count] = sets_SN3.transpose(1, 2)
    return padded_S3N
