"""Chamfer distance between point sets, for all pairs of two collections.

Source: GET3D (Gao et al. 2022), appendix on evaluation: squared distances averaged over the points, both
directions summed, meshes scaled to unit longest side.

Shape legend: R references, S samples, B a block of them, P points, Q points
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from get3d_model.metrics.nearest import MatrixProductDistance, NearestDistance


def chamfer_matrix(
    references_RP3: Tensor,
    samples_SQ3: Tensor,
    progress: Callable[[int], None] = lambda pairs: None,
    nearest: NearestDistance | None = None,
) -> Tensor:
    """Chamfer distance of every (reference, sample) pair; RS float32 on the CPU.

    The same tensor given twice: every pair is computed once, and a shape is at exactly 0 from itself.
    `progress` is told the number of pairs finished (on a GPU: started) since its last call. `nearest`: what
    finds the nearest points (see metrics/select.py), a matrix product by default; it bounds the memory.
    """
    nearest = nearest or MatrixProductDistance()
    symmetric = samples_SQ3 is references_RP3
    result_RS = references_RP3.new_zeros(len(references_RP3), len(samples_SQ3))
    block = nearest.sets_at_once(references_RP3.shape[1], samples_SQ3.shape[1])
    if samples_SQ3.device.type == "cpu":
        # Coordinate by coordinate in memory, as the CPU's kernel reads them.
        samples_SQ3 = samples_SQ3.transpose(1, 2).contiguous().transpose(1, 2)
    for r, reference_P3 in enumerate(references_RP3):
        for first in range(r + 1 if symmetric else 0, len(samples_SQ3), block):
            points_BQ3 = samples_SQ3[first : first + block]
            forward_BP, backward_BQ = nearest(reference_P3, points_BQ3)
            result_RS[r, first : first + len(points_BQ3)] = forward_BP.mean(dim=1) + backward_BQ.mean(dim=1)
            progress(len(points_BQ3))
    if symmetric:
        result_RS += result_RS.T.clone()
    return result_RS.cpu()
