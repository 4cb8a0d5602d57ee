"""The rasteriser interface: nvdiffrast's semantics, so that either backend serves the same callers.

Source: Laine et al. 2020, "Modular Primitives for High-Performance Differentiable Rendering", and the
nvdiffrast documentation (range mode).

Shape legend: B images, V packed vertices, F packed faces, H W image size, C attribute channels.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Rasterizer(Protocol):
    """Rasterises packed meshes. Implementations keep no state between calls that callers can see."""

    def rasterize(
        self, pos_V4: Tensor, faces_F3: Tensor, ranges_B2: Tensor, resolution: tuple[int, int]
    ) -> Tensor:
        """Rasterises mesh b = faces[ranges[b, 0] : ranges[b, 0] + ranges[b, 1]] into image b.

        pos_V4: float32 clip-space positions. faces_F3: int32. ranges_B2: int32 on the CPU, (first, count).
        resolution: (height, width).
        Returns rast_BHW4, float32: barycentrics (u, v) of the pixel centre (the weights of the triangle's
        first and second vertex), z/w, and the triangle's index in `faces_F3` plus 1 (0 where nothing is).
        Image row 0 is at clip-space y = -1, pixel centres at half-integers, both orientations are drawn, the
        nearest z/w in [-1, 1] wins. Gradients flow from (u, v) into pos_V4; z/w and the index carry none.
        Several ranges may name the same triangles.
        """
        ...

    def interpolate(self, attributes_VC: Tensor, rast_BHW4: Tensor, faces_F3: Tensor) -> Tensor:
        """Interpolates vertex attributes; returns BHWC, 0 at uncovered pixels.

        Gradients flow into the attributes and into (u, v) of rast_BHW4.
        """
        ...

    def antialias(self, color_BHWC: Tensor, rast_BHW4: Tensor, pos_V4: Tensor, faces_F3: Tensor) -> Tensor:
        """Blends pixel pairs across silhouette edges by analytic coverage; returns BHWC.

        Triangles are neighbours when they share vertex indices: pass positions that are not split along
        texture seams, or every seam counts as a silhouette.
        Gradients flow into color_BHWC and, from the silhouette edges, into pos_V4.
        """
        ...
