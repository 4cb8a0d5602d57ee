"""Distances to the nearest point on CPUs: a brute-force kernel that keeps every distance in registers.

Eight reference points stay in registers while the points of the other set stream past in vector lanes; every
distance is used at once for both directions and never stored. Distances are sums of squared differences, so equal
sets are at exactly 0.

Roofline: a distance is 3 subtractions, 3 multiply-adds and 2 minima. With 8 float32 lanes and two vector pipes
at 3 GHz that is 6e9 distances/s on a core; memory plays no part, because a set of 2048 points is 24 kB.
Figures of a machine: tests/benchmarks/metrics.py.

Shape legend: S point sets, P reference points, Q points of a set
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from get3d_model.parallel_for import parallel_for

# Lanes of other points that one pass over the reference keeps in the first-level cache.
_CHUNK = 2048
# The largest finite float32, as bits.
_FAR = np.int32(0x7F7FFFFF)


@numba.njit(inline="always")
def _bits(value):
    """The bits of a float32 that is not negative: they sort as it does, and LLVM makes vectors of integer minima."""
    return np.float32(value).view(np.int32)


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _nearest_kernel(first_set, end_set, reference_3P, points_S3Q, forward_SP, backward_SQ):
    """Squared distances of sets [first_set, end_set); P is a multiple of 8 (padded with copies)."""
    points = points_S3Q.shape[2]
    for s in range(first_set, end_set):
        backward_Q = backward_SQ[s]
        for q in range(points):
            backward_Q[q] = _FAR
        for p in range(forward_SP.shape[1]):
            forward_SP[s, p] = _FAR
        for start in range(0, points, _CHUNK):
            stop = min(start + _CHUNK, points)
            x_Q = points_S3Q[s, 0, start:stop]
            y_Q = points_S3Q[s, 1, start:stop]
            z_Q = points_S3Q[s, 2, start:stop]
            back_Q = backward_Q[start:stop]
            for p in range(0, reference_3P.shape[1], 8):
                x0, y0, z0 = reference_3P[0, p], reference_3P[1, p], reference_3P[2, p]
                x1, y1, z1 = reference_3P[0, p + 1], reference_3P[1, p + 1], reference_3P[2, p + 1]
                x2, y2, z2 = reference_3P[0, p + 2], reference_3P[1, p + 2], reference_3P[2, p + 2]
                x3, y3, z3 = reference_3P[0, p + 3], reference_3P[1, p + 3], reference_3P[2, p + 3]
                x4, y4, z4 = reference_3P[0, p + 4], reference_3P[1, p + 4], reference_3P[2, p + 4]
                x5, y5, z5 = reference_3P[0, p + 5], reference_3P[1, p + 5], reference_3P[2, p + 5]
                x6, y6, z6 = reference_3P[0, p + 6], reference_3P[1, p + 6], reference_3P[2, p + 6]
                x7, y7, z7 = reference_3P[0, p + 7], reference_3P[1, p + 7], reference_3P[2, p + 7]
                f0 = f1 = f2 = f3 = f4 = f5 = f6 = f7 = _FAR
                for q in range(stop - start):
                    x, y, z = x_Q[q], y_Q[q], z_Q[q]
                    d0 = _bits((x - x0) * (x - x0) + (y - y0) * (y - y0) + (z - z0) * (z - z0))
                    d1 = _bits((x - x1) * (x - x1) + (y - y1) * (y - y1) + (z - z1) * (z - z1))
                    d2 = _bits((x - x2) * (x - x2) + (y - y2) * (y - y2) + (z - z2) * (z - z2))
                    d3 = _bits((x - x3) * (x - x3) + (y - y3) * (y - y3) + (z - z3) * (z - z3))
                    d4 = _bits((x - x4) * (x - x4) + (y - y4) * (y - y4) + (z - z4) * (z - z4))
                    d5 = _bits((x - x5) * (x - x5) + (y - y5) * (y - y5) + (z - z5) * (z - z5))
                    d6 = _bits((x - x6) * (x - x6) + (y - y6) * (y - y6) + (z - z6) * (z - z6))
                    d7 = _bits((x - x7) * (x - x7) + (y - y7) * (y - y7) + (z - z7) * (z - z7))
                    f0 = min(f0, d0)
                    f1 = min(f1, d1)
                    f2 = min(f2, d2)
                    f3 = min(f3, d3)
                    f4 = min(f4, d4)
                    f5 = min(f5, d5)
                    f6 = min(f6, d6)
                    f7 = min(f7, d7)
                    low = min(min(min(d0, d1), min(d2, d3)), min(min(d4, d5), min(d6, d7)))
                    back_Q[q] = min(back_Q[q], low)
                forward_SP[s, p] = min(forward_SP[s, p], f0)
                forward_SP[s, p + 1] = min(forward_SP[s, p + 1], f1)
                forward_SP[s, p + 2] = min(forward_SP[s, p + 2], f2)
                forward_SP[s, p + 3] = min(forward_SP[s, p + 3], f3)
                forward_SP[s, p + 4] = min(forward_SP[s, p + 4], f4)
                forward_SP[s, p + 5] = min(forward_SP[s, p + 5], f5)
                forward_SP[s, p + 6] = min(forward_SP[s, p + 6], f6)
                forward_SP[s, p + 7] = min(forward_SP[s, p + 7], f7)


class CpuNearestDistance:
    """The `NearestDistance` of metrics/nearest.py by the kernel above, on all threads torch may use."""

    def sets_at_once(self, points: int, others: int) -> int:
        """See `NearestDistance.sets_at_once`: copies and results, 2^23 floats together."""
        return max(1, (1 << 23) // max(1, points + 4 * others))

    def __call__(self, reference_P3: Tensor, points_SQ3: Tensor) -> tuple[Tensor, Tensor]:
        """See `NearestDistance.__call__`."""
        sets, others = points_SQ3.shape[:2]
        points = len(reference_P3)
        reference_3P = reference_P3.detach().numpy().T
        # Copies of the last point do not change a minimum.
        padded_3P = np.ascontiguousarray(np.pad(reference_3P, ((0, 0), (0, -points % 8)), mode="edge"))
        points_S3Q = points_SQ3.detach().transpose(1, 2).contiguous().numpy()
        forward_SP = np.empty((sets, padded_3P.shape[1]), np.int32)
        backward_SQ = np.empty((sets, others), np.int32)
        parallel_for(
            _nearest_kernel, sets, torch.get_num_threads(), padded_3P, points_S3Q, forward_SP, backward_SQ
        )
        forward_SP, backward_SQ = forward_SP.view(np.float32), backward_SQ.view(np.float32)
        return torch.from_numpy(forward_SP[:, :points]), torch.from_numpy(backward_SQ)
