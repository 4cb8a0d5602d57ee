"""The UV atlas interface, and its implementation for quality: xatlas.

Shape legend: V F vertices and faces, W vertices after splitting along seams
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from get3d_model.types import Mesh


@dataclass(frozen=True)
class UnwrappedMesh:
    """mesh: vertices split along chart seams. uvs_W2: float32 in [0, 1], charts do not overlap."""

    mesh: Mesh
    uvs_W2: np.ndarray


class UvAtlas(Protocol):
    """Unwraps meshes. Implementations keep no state: several threads may use one object."""

    def unwrap(self, mesh: Mesh, resolution: int, threads: int = 1) -> UnwrappedMesh:
        """Charts `mesh` for a texture of resolution^2 texels, with room between charts for their borders.

        Positions and the order of the faces stay. An empty mesh gives an empty result. The same mesh gives the
        same result, on any number of threads.
        """
        ...


@dataclass(frozen=True)
class XatlasAtlas:
    """The `UvAtlas` for quality: fewer charts, little stretch, a large part of a second for 16 000 faces.

    padding: texels between charts. Source: xatlas (Young), after Levy et al. 2002.
    """

    padding: int = 2

    def unwrap(self, mesh: Mesh, resolution: int, threads: int = 1) -> UnwrappedMesh:
        """See `UvAtlas.unwrap`; on one thread."""
        if not len(mesh.faces_F3):
            return UnwrappedMesh(Mesh(mesh.vertices_V3[:0], mesh.faces_F3), np.zeros((0, 2), np.float32))
        # Loaded where it is asked for: the fast atlas does without.
        import xatlas

        atlas = xatlas.Atlas()
        atlas.add_mesh(mesh.vertices_V3, mesh.faces_F3.astype(np.uint32))
        chart = xatlas.ChartOptions()
        # One pass of chart growth: further passes cost most of the time and hardly change the packing.
        chart.max_iterations = 1
        pack = xatlas.PackOptions()
        pack.resolution = resolution
        pack.padding = self.padding
        pack.bilinear = True
        atlas.generate(chart, pack)
        source_W, faces_F3, uvs_W2 = atlas[0]
        split = Mesh(mesh.vertices_V3[source_W], faces_F3.astype(np.int32))
        return UnwrappedMesh(split, uvs_W2.astype(np.float32))
