"""Chamfer distance between point sets, for all pairs of two collections.

Source: GET3D (Gao et al. 2022), appendix on evaluation: squared distances averaged over the points, both
directions summed, meshes scaled to unit longest side.

Shape legend: R references, S samples, B a block of them, P points, Q points
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from get3d_model.mesh_topology import sample_surface
from get3d_model.metrics.nearest import MatrixProductDistance, NearestDistance
from get3d_model.types import Mesh, TexturedMesh


def surface_points(mesh: Mesh | TexturedMesh, count: int, seed: int) -> np.ndarray:
    """`count` area-uniform surface points, mesh centred and scaled to unit longest side; (count, 3) float32.

    Raises InputError for a mesh without area.
    """
    points_P3 = sample_surface(mesh, count, seed)
    low, high = mesh.vertices_V3.min(axis=0), mesh.vertices_V3.max(axis=0)
    return ((points_P3 - (low + high) / 2) / (high - low).max()).astype(np.float32)


def chamfer_matrix(
    references_RP3: Tensor,
    samples_SQ3: Tensor,
    progress: Callable[[int], None] = lambda pairs: None,
    nearest: NearestDistance | None = None,
) -> Tensor:
    """Chamfer distance of every (reference, sample) pair; RS float32 on the CPU.

    `progress` is told the number of pairs finished (on a GPU: started) since its last call. `nearest`: what
    finds the nearest points, our own by default (see metrics/select.py); it bounds the memory.
    """
    nearest = nearest or MatrixProductDistance()
    result_RS = references_RP3.new_empty(len(references_RP3), len(samples_SQ3))
    block = nearest.sets_at_once(references_RP3.shape[1], samples_SQ3.shape[1])
    for r, reference_P3 in enumerate(references_RP3):
        for first in range(0, len(samples_SQ3), block):
            points_BQ3 = samples_SQ3[first : first + block]
            forward_BP, backward_BQ = nearest(reference_P3, points_BQ3)
            result_RS[r, first : first + len(points_BQ3)] = forward_BP.mean(dim=1) + backward_BQ.mean(dim=1)
            progress(len(points_BQ3))
    return result_RS.cpu()
