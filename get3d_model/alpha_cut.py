"""Cuts the transparent parts out of a surface, because a mesh has one opaque base-colour texture.

Leaves, fences and hair are flat cards whose picture holds the outline. Faces that the outline crosses are
quartered until they are about as fine as the picture, and what lies below the threshold is clipped away along
the line where the interpolated opacity crosses it.

Shape legend: T triangles, A attributes, N points, H W picture
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

FINE = 1.0  # texels; smaller triangles are clipped
MAX_TRIANGLES = 400_000  # being divided at a time; beyond, they are clipped as they are


def cut_below(
    corners_T3A: np.ndarray, alpha_HW: np.ndarray, threshold: float, uv_column: int = 3
) -> np.ndarray:
    """The triangles where the picture's opacity reaches `threshold`.

    corners_T3A: float64 attributes of every face's corners (positions, uvs, colours), interpolated linearly;
    the uvs, (0, 0) bottom-left and repeating, start at `uv_column`. alpha_HW: uint8. threshold: in (0, 1].
    Returns T3A with the winding of the faces they came from.
    """
    size_2 = np.array(alpha_HW.shape[::-1])
    counts = _summed(alpha_HW >= 255.0 * threshold)
    kept, pending = [], corners_T3A
    while len(pending):
        texels_T32 = pending[..., uv_column : uv_column + 2] * (1, -1) * size_2 + (0, size_2[1])
        opaque_T, clear_T = _uniform(counts, texels_T32)
        kept.append(pending[opaque_T])
        mixed_T = ~(opaque_T | clear_T)
        pending, texels_T32 = pending[mixed_T], texels_T32[mixed_T]
        fine_T = np.ptp(texels_T32, axis=1).max(axis=1) <= FINE
        if 4 * (~fine_T).sum() > MAX_TRIANGLES:
            fine_T[:] = True
        level = _bilinear(alpha_HW, texels_T32[fine_T].reshape(-1, 2)).reshape(-1, 3) / 255.0 - threshold
        kept.append(_clipped(pending[fine_T], level))
        pending = _quartered(pending[~fine_T])
    return np.concatenate(kept)


def spread_opaque(image_HW3: np.ndarray, opaque_HW: np.ndarray) -> np.ndarray:
    """The picture with the nearest opaque colour where it is transparent: what lies there is often black."""
    nearest_2HW = distance_transform_edt(~opaque_HW, return_distances=False, return_indices=True)
    return image_HW3[nearest_2HW[0], nearest_2HW[1]]


def _summed(mask_HW: np.ndarray) -> np.ndarray:
    """Entry (y, x) counts the true texels above and left of it (Crow, "Summed-Area Tables", 1984)."""
    table = np.zeros((mask_HW.shape[0] + 1, mask_HW.shape[1] + 1), dtype=np.int32)
    table[1:, 1:] = mask_HW.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    return table


def _uniform(counts: np.ndarray, texels_T32: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether all texels that a triangle's bounding box may look up are opaque, and whether none is.

    Neither for a box that stands over the edge of the picture.
    """
    size_2 = np.array(counts.shape[::-1]) - 1
    low_T2 = np.floor(texels_T32.min(axis=1) - 0.5).astype(np.int64)
    high_T2 = np.ceil(texels_T32.max(axis=1) + 0.5).astype(np.int64)
    shift_T2 = low_T2 // size_2 * size_2
    low_T2, high_T2 = low_T2 - shift_T2, high_T2 - shift_T2
    within_T = (high_T2 <= size_2).all(axis=1)
    high_T2 = np.minimum(high_T2, size_2)
    (x0, y0), (x1, y1) = low_T2.T, high_T2.T
    found_T = counts[y1, x1] - counts[y0, x1] - counts[y1, x0] + counts[y0, x0]
    return within_T & (found_T == (high_T2 - low_T2).prod(axis=1)), within_T & (found_T == 0)


def _bilinear(alpha_HW: np.ndarray, texels_N2: np.ndarray) -> np.ndarray:
    """Repeating lookup at texel positions, whose centres are at halves."""
    height, width = alpha_HW.shape
    first_N2 = np.floor(texels_N2 - 0.5).astype(np.int64)
    (fx_N, fy_N), (x_N, y_N) = (texels_N2 - 0.5 - first_N2).T, first_N2.T
    result_N = np.zeros(len(texels_N2))
    for dx, wx_N in ((0, 1.0 - fx_N), (1, fx_N)):
        for dy, wy_N in ((0, 1.0 - fy_N), (1, fy_N)):
            result_N += wx_N * wy_N * alpha_HW[(y_N + dy) % height, (x_N + dx) % width]
    return result_N


def _quartered(triangles_T3A: np.ndarray) -> np.ndarray:
    a, b, c = triangles_T3A[:, 0], triangles_T3A[:, 1], triangles_T3A[:, 2]
    ab, bc, ca = (a + b) / 2.0, (b + c) / 2.0, (c + a) / 2.0
    corners = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return np.concatenate([np.stack(corner, axis=1) for corner in corners])


def _clipped(triangles_T3A: np.ndarray, level_T3: np.ndarray) -> np.ndarray:
    """The parts of the triangles where the linear function with corner values `level_T3` is not negative."""
    inside_T3 = level_T3 >= 0.0
    count_T = inside_T3.sum(axis=1)
    kept = [triangles_T3A[count_T == 3]]
    for wanted in (1, 2):
        some_T = count_T == wanted
        # Turned so that the corner that differs from the other two comes first; the winding stays.
        odd_T = np.argmax(inside_T3[some_T] == (wanted == 1), axis=1)
        order_T3 = (odd_T[:, None] + np.arange(3)) % 3
        corners = np.take_along_axis(triangles_T3A[some_T], order_T3[..., None], axis=1)
        level = np.take_along_axis(level_T3[some_T], order_T3, axis=1)
        odd, second, third = corners[:, 0], corners[:, 1], corners[:, 2]
        to_second = odd + (second - odd) * (level[:, 0] / (level[:, 0] - level[:, 1]))[:, None]
        to_third = odd + (third - odd) * (level[:, 0] / (level[:, 0] - level[:, 2]))[:, None]
        if wanted == 1:
            kept.append(np.stack([odd, to_second, to_third], axis=1))
        else:
            kept.append(np.stack([to_second, second, third], axis=1))
            kept.append(np.stack([to_second, third, to_third], axis=1))
    return np.concatenate(kept)
