"""UV unwrapping with xatlas.

Shape legend: V F vertices and faces, W vertices after splitting along seams
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xatlas

from get3d_model.types import Mesh


@dataclass(frozen=True)
class UnwrappedMesh:
    """mesh: vertices split along chart seams. uvs_W2: float32 in [0, 1], charts do not overlap."""

    mesh: Mesh
    uvs_W2: np.ndarray


def unwrap(mesh: Mesh, resolution: int, padding: int = 2) -> UnwrappedMesh:
    """Charts `mesh` for a texture of resolution^2 texels with `padding` texels between charts.

    An empty mesh gives an empty result. Source: xatlas (Young), after Levy et al. 2002.
    """
    if not len(mesh.faces_F3):
        return UnwrappedMesh(mesh, np.zeros((0, 2), np.float32))
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices_V3, mesh.faces_F3.astype(np.uint32))
    chart = xatlas.ChartOptions()
    # One pass of chart growth: further passes cost most of the time and hardly change the packing.
    chart.max_iterations = 1
    pack = xatlas.PackOptions()
    pack.resolution = resolution
    pack.padding = padding
    pack.bilinear = True
    atlas.generate(chart, pack)
    source_W, faces_F3, uvs_W2 = atlas[0]
    split = Mesh(mesh.vertices_V3[source_W], faces_F3.astype(np.int32))
    return UnwrappedMesh(split, uvs_W2.astype(np.float32))
