"""Which triangles a rasteriser may show at a pixel when it moves every edge by up to `edge_px`, in float64.

A rasteriser that snaps vertices to a subpixel grid, as nvdiffrast's does, moves edges by a part of a pixel. So
two right ones may differ at a pixel whose centre lies within that of a projected edge (of the triangle as
clipped to the near and far plane), or where the depths of two surfaces are the same to that accuracy. They
may differ nowhere else: there exactly one answer is allowed.

Shape legend: F faces, H W image size, N corners of a polygon
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.get3d_model.rendering.reference import pixel_centers


@dataclass(frozen=True)
class Allowed:
    """ids_FHW: whether triangle f may be seen; background_HW: whether nothing may be."""

    ids_FHW: np.ndarray
    background_HW: np.ndarray

    @property
    def sure_HW(self) -> np.ndarray:
        """Where one answer is allowed only."""
        return self.ids_FHW.sum(0) + self.background_HW == 1

    def violations_HW(self, id_HW: np.ndarray) -> np.ndarray:
        """Where id_HW (index + 1 into the faces, 0 for none) is not allowed."""
        index_HW = np.maximum(id_HW.astype(np.int64) - 1, 0)
        in_set_HW = np.take_along_axis(self.ids_FHW, index_HW[None], axis=0)[0]
        return ~np.where(id_HW > 0, in_set_HW, self.background_HW)


def clip(polygon_N4: np.ndarray, plane_4: np.ndarray) -> np.ndarray:
    """What of a convex polygon has plane . vertex >= 0 (Sutherland-Hodgman)."""
    side_N = polygon_N4 @ plane_4
    kept = []
    for k in range(len(polygon_N4)):
        n = (k + 1) % len(polygon_N4)
        if side_N[k] >= 0:
            kept.append(polygon_N4[k])
        if (side_N[k] < 0) != (side_N[n] < 0):
            t = side_N[k] / (side_N[k] - side_N[n])
            kept.append(polygon_N4[k] + t * (polygon_N4[n] - polygon_N4[k]))
    return np.array(kept).reshape(-1, 4)


def signed_distance(points_HW2: np.ndarray, polygon_N2: np.ndarray) -> np.ndarray:
    """To the border of a convex polygon of either orientation, positive inside; HW, in the points' unit."""
    distance_HW = np.full(points_HW2.shape[:2], np.inf)
    left_HW, right_HW = (np.ones(points_HW2.shape[:2], bool) for _ in range(2))
    for a, b in zip(polygon_N2, np.roll(polygon_N2, -1, axis=0), strict=True):
        edge, offset = b - a, points_HW2 - a
        t = np.clip(offset @ edge / max(edge @ edge, 1e-300), 0.0, 1.0)
        distance_HW = np.minimum(distance_HW, np.linalg.norm(offset - t[..., None] * edge, axis=-1))
        cross = edge[0] * offset[..., 1] - edge[1] * offset[..., 0]
        left_HW &= cross >= 0
        right_HW &= cross <= 0
    return np.where(left_HW | right_HW, distance_HW, -distance_HW)


def allowed_ids(
    pos_V4: np.ndarray,
    faces_F3: np.ndarray,
    resolution: tuple[int, int],
    edge_px: float,
    depth_step: float = 1e-5,
) -> Allowed:
    """edge_px: how far an edge may move, in pixels. depth_step: how far z/w may, besides moving with the edges."""
    height, width = resolution
    centers_HW2 = pixel_centers(height, width)
    scale = np.array([width, height]) / 2.0
    homogeneous_HW3 = np.concatenate([centers_HW2, np.ones((height, width, 1))], axis=-1)
    shape = (len(faces_F3), height, width)
    may_FHW = np.zeros(shape, bool)
    near_FHW = np.full(shape, -np.inf)
    nearest_HW = np.full((height, width), np.inf)
    background_HW = np.ones((height, width), bool)
    for face, corners in enumerate(faces_F3):
        triangle_34 = pos_V4[corners].astype(np.float64)
        polygon_N4 = clip(clip(triangle_34, np.array([0, 0, 1.0, 1.0])), np.array([0, 0, -1.0, 1.0]))
        if len(polygon_N4) < 3:
            continue
        pixels_N2 = polygon_N4[:, :2] / polygon_N4[:, 3:] * scale
        # Pixels farther than edge_px from its bounding box are outside for certain.
        low = np.clip(np.floor(pixels_N2.min(0) + scale - edge_px - 1), 0, 2 * scale).astype(int)
        high = np.clip(np.ceil(pixels_N2.max(0) + scale + edge_px + 1), 0, 2 * scale).astype(int)
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
        distance_HW = signed_distance(centers_HW2[window] * scale, pixels_N2)
        may_FHW[face][window] = distance_HW >= -edge_px
        matrix_33 = triangle_34[:, [0, 1, 3]]
        if not may_FHW[face].any() or abs(np.linalg.det(matrix_33)) < 1e-12:
            continue  # seen from its edge: it may win anywhere on its line
        # z/w is affine over the image: its value at (x, y) is plane . (x, y, 1).
        plane_3 = np.linalg.solve(matrix_33, triangle_34[:, 2])
        depth_HW = homogeneous_HW3[window] @ plane_3
        margin = depth_step + edge_px * np.abs(plane_3[:2] / scale).sum()
        near_FHW[face][window] = depth_HW - margin
        must_HW = distance_HW > edge_px
        background_HW[window] &= ~must_HW
        farthest_HW = np.where(must_HW, depth_HW + margin, np.inf)
        nearest_HW[window] = np.minimum(nearest_HW[window], farthest_HW)
    return Allowed(may_FHW & (near_FHW <= nearest_HW), background_HW)
