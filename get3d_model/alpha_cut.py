"""Cuts the transparent parts out of a surface, because a mesh has one opaque base-colour texture.

Leaves, fences and hair are flat cards whose picture holds the outline. Faces that the outline crosses are
divided until they are about as fine as the picture, and what lies below the threshold is clipped away along
the line where the interpolated opacity crosses it.

Shape legend: V vertices, F faces, S points on a face, T small triangles, A attributes, H W picture
"""

from __future__ import annotations

import numpy as np

MAX_DIVISIONS = 32  # of an edge; more only where the picture is finer than any camera sees
MAX_TRIANGLES = 400_000  # small triangles of one part; the divisions are reduced until they fit


def sample_nearest(alpha_HW: np.ndarray, uvs_N2: np.ndarray) -> np.ndarray:
    """Opacity in [0, 1] at uvs with (0, 0) bottom-left, repeating; alpha_HW is uint8."""
    height, width = alpha_HW.shape
    x_N = np.floor(uvs_N2[..., 0] * width).astype(np.int64) % width
    y_N = np.floor((1.0 - uvs_N2[..., 1]) * height).astype(np.int64) % height
    return alpha_HW[y_N, x_N] / 255.0


def cut_below(
    corners_F3A: np.ndarray, uvs_F32: np.ndarray, alpha_HW: np.ndarray, threshold: float
) -> np.ndarray:
    """The triangles where the picture's opacity reaches `threshold`.

    corners_F3A: float64 attributes of every face's corners (positions, uvs, colours), interpolated linearly.
    uvs_F32: where the opacity is looked up. alpha_HW: uint8.
    Returns T3A with the winding of the faces they came from.
    """
    texels_F32 = uvs_F32 * alpha_HW.shape[::-1]
    extent_F = np.ptp(texels_F32, axis=1).max(axis=1)
    # Powers of two: one batch for each.
    divisions_F = 2 ** np.ceil(np.log2(np.clip(extent_F, 1.0, MAX_DIVISIONS))).astype(np.int64)
    while (divisions_F**2).sum() > MAX_TRIANGLES and divisions_F.max() > 1:
        divisions_F = np.maximum(divisions_F // 2, 1)
    pieces = []
    for count in np.unique(divisions_F):
        chosen_F = divisions_F == count
        weights_S3, small_T3 = _divided(int(count))
        alpha_FS = sample_nearest(alpha_HW, np.einsum("sc,fcd->fsd", weights_S3, uvs_F32[chosen_F]))
        inside_FS = alpha_FS >= threshold
        corners = corners_F3A[chosen_F]
        pieces.append(corners[inside_FS.all(axis=1)])
        mixed_F = inside_FS.any(axis=1) & ~inside_FS.all(axis=1)
        points_FSA = np.einsum("sc,fca->fsa", weights_S3, corners[mixed_F])
        small = points_FSA[:, small_T3].reshape(-1, 3, corners.shape[-1])
        pieces.append(_clipped(small, alpha_FS[mixed_F][:, small_T3].reshape(-1, 3) - threshold))
    return np.concatenate(pieces)


def _divided(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Barycentrics S3 of a triangle's grid with `count` steps along each edge, and its T3 small triangles."""
    steps = [(i, j) for i in range(count + 1) for j in range(count + 1 - i)]
    number = {step: index for index, step in enumerate(steps)}
    faces = []
    for i, j in steps:
        if i + j < count:
            faces.append((number[i, j], number[i + 1, j], number[i, j + 1]))
        if i + j < count - 1:
            faces.append((number[i + 1, j], number[i + 1, j + 1], number[i, j + 1]))
    ij_S2 = np.array(steps, dtype=np.float64) / count
    return np.column_stack([1.0 - ij_S2.sum(axis=1), ij_S2]), np.array(faces)


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
