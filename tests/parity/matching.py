"""Which of our vertices stands for which of the reference's."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

TOLERANCE = 1e-3


def match_vertices(verts_V3: np.ndarray, ref_verts_V3: np.ndarray) -> np.ndarray:
    """For each of our vertices the reference vertex it stands for.

    The same order is taken where it fits (two vertices may coincide); otherwise the nearest one.
    """
    in_order = np.abs(verts_V3 - ref_verts_V3).max()
    if in_order <= TOLERANCE * np.sqrt(np.square(ref_verts_V3).mean()):
        return np.arange(len(verts_V3))
    return cKDTree(ref_verts_V3).query(verts_V3)[1]
