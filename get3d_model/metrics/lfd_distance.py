"""The light field distance between descriptors, for all pairs of two collections.

The distance of two silhouettes is the L1 distance of their 47 quantised features; of two light fields, the sum over
the ten silhouettes, smallest over the 60 alignments; of two shapes, the smallest over the ten by ten pairs of light
fields: 6 000 relative rotations in all. It is symmetric, and 0 for equal descriptors. All sums are integers below
2^24, so float32 gives them exactly, on every device the same.

On the CPU, samples lie in vector lanes. On a GPU both steps are matrix products. |a - b| = a + b - 2 min(a, b), and
min(a, b) counts the thresholds that both exceed: products of 0/1 vectors in 8-bit integers. And the sum along an
alignment is a product with a 0/1 matrix of 100 silhouette pairs by 60 alignments.

Roofline, one pair: 10 000 silhouette pairs of 47 differences (1.4 Mflop) and 60 000 additions. A CPU core with 16
float32 lanes and two vector pipes does 3 ns of work per 100 such operations: about 70 000 pairs/s at 3.3 GHz. A GPU:
10 000 x 47 x up to 255 x 2 = 240 Mop in 8-bit integers (fewer: thresholds that no feature reaches are left out), at
10^15 op/s 0.2 us; the 40 kB of sums are moved four times, 0.05 us at 4 TB/s.
Figures of a machine: tests/benchmarks/metrics.py.

Source: Chen et al. 2003, equations 1 and 2.

Shape legend: R references, S samples, B a block of them, L light fields (10), A axes (10), K = L A views, F features,
T thresholds, G alignments (60), N lanes
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

from get3d_model.metrics.light_field import ALIGNMENTS, AXES, LIGHT_FIELDS, alignments
from get3d_model.parallel_for import parallel_for

LANES = 16
# Features are padded to an even number with zeros.
HALF = 24
_VIEWS = LIGHT_FIELDS * AXES
# Samples that lie in lanes at once (20 kB each), and references between two reports of progress.
_SAMPLES_AT_ONCE, _REFERENCES_AT_ONCE = 4096, 8
# Entries of the table of silhouette pairs that a GPU keeps at once: 1 GB of int32, four times that in all.
_GPU_ENTRIES = 1 << 28


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _distance_kernel(
    first_block, end_block, reference_RKF, samples_BKFN, alignments_GA, skip_until, result_RBN
):
    """Distances of sample blocks [first_block, end_block) to every reference.

    skip_until: reference r is not compared with the blocks whose last sample comes before skip_until[r].
    """
    table = np.empty((AXES, AXES, LANES), np.float32)
    for block in range(first_block, end_block):
        for r in range(len(reference_RKF)):
            if (block + 1) * LANES <= skip_until[r]:
                continue
            best_N = result_RBN[r, block]
            best_N[:] = np.float32(3e38)
            for one in range(LIGHT_FIELDS):
                for other in range(LIGHT_FIELDS):
                    for i in range(AXES):
                        a_F = reference_RKF[r, one * AXES + i]
                        for j in range(AXES):
                            b_FN = samples_BKFN[block, other * AXES + j]
                            sum_N = table[i, j]
                            # The constant inner loops are unrolled, so that the lanes' loop becomes vector code.
                            for n in range(LANES):
                                first, second = np.float32(0.0), np.float32(0.0)
                                for f in range(HALF):
                                    first += abs(a_F[f] - b_FN[f, n])
                                for f in range(HALF, 2 * HALF):
                                    second += abs(a_F[f] - b_FN[f, n])
                                sum_N[n] = first + second
                    for g in range(len(alignments_GA)):
                        axis_A = alignments_GA[g]
                        for n in range(LANES):
                            total = np.float32(0.0)
                            for i in range(AXES):
                                total += table[i, axis_A[i], n]
                            best_N[n] = total if total < best_N[n] else best_N[n]


def lfd_matrix(
    references_RLAF: np.ndarray,
    samples_SLAF: np.ndarray,
    device: torch.device | None = None,
    progress: Callable[[int], None] = lambda pairs: None,
) -> np.ndarray:
    """Light field distance of every (reference, sample) pair; RS float32, whole numbers.

    references, samples: uint8 descriptors of metrics/lfd.py. The same array given twice: every pair is computed once.
    device: where (default: the CPU). `progress` is told the number of pairs finished since its last call.
    """
    if device is not None and device.type != "cpu":
        return _on_gpu(references_RLAF, samples_SLAF, device, progress)
    references, samples = len(references_RLAF), len(samples_SLAF)
    symmetric = samples_SLAF is references_RLAF
    result_RS = np.zeros((references, samples), np.float32)
    for start in range(0, samples, _SAMPLES_AT_ONCE):
        samples_BKFN = _in_lanes(samples_SLAF[start : start + _SAMPLES_AT_ONCE])
        here = min(_SAMPLES_AT_ONCE, samples - start)
        for first in range(0, references, _REFERENCES_AT_ONCE):
            reference_RKF = _padded(references_RLAF[first : first + _REFERENCES_AT_ONCE])
            rows = np.arange(first, first + len(reference_RKF))
            needed_R = rows + 1 if symmetric else np.zeros(len(rows), np.int64)
            if symmetric and start + here <= first:
                continue
            part_RBN = np.zeros((len(rows), len(samples_BKFN), LANES), np.float32)
            parallel_for(
                _distance_kernel, len(samples_BKFN), torch.get_num_threads(), reference_RKF, samples_BKFN,
                alignments(), np.maximum(needed_R - start, 0), part_RBN,
            )  # fmt: skip
            result_RS[rows, start : start + here] = part_RBN.reshape(len(rows), -1)[:, :here]
            # Of a symmetric matrix only what is above the diagonal counts.
            progress(int(np.clip(start + here - np.maximum(needed_R, start), 0, here).sum()))
    if symmetric:
        result_RS = np.triu(result_RS, 1)
        result_RS += result_RS.T
    return result_RS


def _padded(descriptors_RLAF: np.ndarray) -> np.ndarray:
    """RKF float32 with the features padded by zeros."""
    features = descriptors_RLAF.shape[-1]
    result_RKF = np.zeros((len(descriptors_RLAF), _VIEWS, 2 * HALF), np.float32)
    result_RKF[..., :features] = descriptors_RLAF.reshape(-1, _VIEWS, features)
    return result_RKF


def _in_lanes(descriptors_SLAF: np.ndarray) -> np.ndarray:
    """BKFN float32; the last block is filled up with zeros."""
    samples, features = len(descriptors_SLAF), descriptors_SLAF.shape[-1]
    blocks = -(-samples // LANES)
    result_BKFN = np.zeros((blocks, _VIEWS, 2 * HALF, LANES), np.float32)
    lanes_NBKF = np.zeros((LANES, blocks, _VIEWS, features), np.uint8)
    flat_SKF = descriptors_SLAF.reshape(samples, _VIEWS, features)
    for n in range(LANES):
        of_lane = flat_SKF[n::LANES]
        lanes_NBKF[n, : len(of_lane)] = of_lane
    result_BKFN[:, :, :features] = lanes_NBKF.transpose(1, 2, 3, 0)
    return result_BKFN


def _on_gpu(
    references_RLAF: np.ndarray,
    samples_SLAF: np.ndarray,
    device: torch.device,
    progress: Callable[[int], None],
) -> np.ndarray:
    """`lfd_matrix` by matrix products (on the CPU too, for the tests)."""
    references_RKF, samples_SKF = (
        torch.from_numpy(np.ascontiguousarray(d)).to(device).reshape(len(d), _VIEWS, -1)
        for d in (references_RLAF, samples_SLAF)
    )
    highest_F = torch.maximum(references_RKF.amax(dim=(0, 1)), samples_SKF.amax(dim=(0, 1)))
    symmetric = samples_SLAF is references_RLAF
    alignments_PG = torch.from_numpy(_alignment_matrix()).to(device)
    result_RS = np.zeros((len(references_RKF), len(samples_SKF)), np.float32)
    pairs = max(1, _GPU_ENTRIES // _VIEWS**2)
    # Products of 8-bit integers want an even number of samples; references are fewer, for their bits are made anew.
    rows = max(1, min(len(references_RKF), int(pairs**0.5) // 4))
    columns = max(2, pairs // rows // 2 * 2)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        for start in range(0, len(samples_SKF), columns):
            samples_BKF = samples_SKF[start : start + columns]
            sample_bits_NT = _threshold_bits(samples_BKF, highest_F)
            for first in range(0, len(references_RKF), rows):
                references_BKF = references_RKF[first : first + rows]
                if symmetric and start + len(samples_BKF) <= first:
                    continue
                block_RS = _products(references_BKF, samples_BKF, sample_bits_NT, highest_F, alignments_PG)
                result_RS[first : first + rows, start : start + columns] = block_RS.cpu().numpy()
                row_R1 = np.arange(first, first + len(references_BKF))[:, None]
                column_S = np.arange(start, start + len(samples_BKF))
                progress(int((column_S > row_R1).sum()) if symmetric else block_RS.numel())
    finally:
        torch.set_float32_matmul_precision(precision)
    if symmetric:
        result_RS = np.triu(result_RS, 1)
        result_RS += result_RS.T
    return result_RS


def _products(
    references_RKF: Tensor,
    samples_SKF: Tensor,
    sample_bits_NT: Tensor,
    highest_F: Tensor,
    alignments_PG: Tensor,
) -> Tensor:
    """Distances of a block, RS float32."""
    references, samples = len(references_RKF), len(samples_SKF)
    reference_bits_NT = _threshold_bits(references_RKF, highest_F)
    common = torch._int_mm(reference_bits_NT, sample_bits_NT.T)[: references * _VIEWS, : samples * _VIEWS]
    common = common.reshape(references, LIGHT_FIELDS, AXES, samples, LIGHT_FIELDS, AXES)
    # Light fields of both first, then the ten by ten pairs of axes as one dimension.
    common = common.permute(0, 3, 1, 4, 2, 5).to(torch.float32, memory_format=torch.contiguous_format)
    aligned = common.reshape(-1, AXES * AXES) @ alignments_PG
    most = aligned.amax(dim=1).reshape(references, samples, LIGHT_FIELDS, LIGHT_FIELDS)
    reference_sum_RL, sample_sum_SL = (
        d.reshape(len(d), LIGHT_FIELDS, -1).sum(dim=2, dtype=torch.float32)
        for d in (references_RKF, samples_SKF)
    )
    total = reference_sum_RL[:, None, :, None] + sample_sum_SL[None, :, None, :] - 2.0 * most
    return total.amin(dim=(2, 3))


def _threshold_bits(descriptors_RKF: Tensor, highest_F: Tensor) -> Tensor:
    """1 where a feature exceeds a threshold; NT int8, N = R K and T padded with zeros to what the product wants."""
    parts = [
        descriptors_RKF[..., f, None] > torch.arange(int(top), device=descriptors_RKF.device)
        for f, top in enumerate(highest_F.tolist())
        if top > 0
    ]
    flat = descriptors_RKF.shape[0] * descriptors_RKF.shape[1]
    thresholds = int(highest_F.sum(dtype=torch.int64))
    bits_NT = torch.zeros(
        -(-flat // 8) * 8, max(16, -(-thresholds // 16) * 16), dtype=torch.int8, device=descriptors_RKF.device
    )
    if parts:
        bits_NT[:flat, :thresholds] = torch.cat(parts, dim=-1).reshape(flat, -1)
    return bits_NT


def _alignment_matrix() -> np.ndarray:
    """1 where alignment g lays axis i on axis j; (10 i + j) x G float32."""
    matrix = np.zeros((AXES, AXES, ALIGNMENTS), np.float32)
    for g, axis_A in enumerate(alignments()):
        matrix[np.arange(AXES), axis_A, g] = 1.0
    return matrix.reshape(AXES * AXES, ALIGNMENTS)
