"""Chamfer distance between point sets, for all pairs of two collections.

Source: GET3D (Gao et al. 2022), appendix on evaluation: squared distances averaged over the points, both
directions summed, meshes scaled to unit longest side.

Shape legend: R references, S samples, P points, Q points
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from get3d_model.mesh_topology import sample_surface
from get3d_model.types import Mesh, TexturedMesh


def surface_points(mesh: Mesh | TexturedMesh, count: int, seed: int) -> np.ndarray:
    """`count` area-uniform surface points, mesh centred and scaled to unit longest side; (count, 3) float32.

    Raises InputError for a mesh without area.
    """
    points_P3 = sample_surface(mesh, count, seed)
    low, high = mesh.vertices_V3.min(axis=0), mesh.vertices_V3.max(axis=0)
    return ((points_P3 - (low + high) / 2) / (high - low).max()).astype(np.float32)


def chamfer_matrix(
    references_RP3: Tensor, samples_SQ3: Tensor, progress: Callable[[int], None] = lambda pairs: None
) -> Tensor:
    """Chamfer distance of every (reference, sample) pair; RS float32.

    Squared distances are one matrix product per reference and block of samples, so memory stays bounded.
    `progress` is told the number of pairs finished since its last call.
    """
    result_RS = torch.empty(len(references_RP3), len(samples_SQ3))
    # 2^23 distances, 32 MB, at a time.
    block = max(1, (1 << 23) // max(1, references_RP3.shape[1] * samples_SQ3.shape[1]))
    samples_norm_SQ = samples_SQ3.square().sum(dim=-1)
    for r, reference_P3 in enumerate(references_RP3):
        reference_norm_P1 = reference_P3.square().sum(dim=-1, keepdim=True)
        for first in range(0, len(samples_SQ3), block):
            points_BQ3 = samples_SQ3[first : first + block]
            distance_BPQ = torch.matmul(reference_P3 * -2.0, points_BQ3.transpose(1, 2))
            distance_BPQ += reference_norm_P1
            distance_BPQ += samples_norm_SQ[first : first + block, None, :]
            nearest = distance_BPQ.amin(dim=2).clamp(min=0).mean(dim=1) + distance_BPQ.amin(dim=1).clamp(
                min=0
            ).mean(dim=1)
            result_RS[r, first : first + len(points_BQ3)] = nearest.cpu()
            progress(len(points_BQ3))
    return result_RS
