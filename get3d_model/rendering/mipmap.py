"""Minification of textures: a mip pyramid in linear light, and which level each face may use.

Mip levels average neighbouring texels, also across the borders of texture islands and palette cells. Two
guards keep colours where they belong: a face whose texels are all of one colour is that colour (`flat_F`),
and no face uses a level whose texels are larger than half its own width in the texture (`max_level_F`).

Shape legend: H W texture size, F faces, V vertices, L levels, T texels of all levels from 1 on
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from get3d_model.jit import kernel

# Footprints across the border of a repeating texture are compared texel by texel up to this many.
MAX_COMPARED_TEXELS = 4096
SRGB_TO_LINEAR_256 = np.where(
    np.arange(256) <= 0.04045 * 255,
    np.arange(256) / 255 / 12.92,
    ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
).astype(np.float32)


@dataclass(frozen=True)
class MipTexture:
    """A texture and its coarser levels.

    base_HW3: uint8 sRGB, level 0. texels_T3: float32, linear; levels 1 and up, one after the other.
    sizes_L3: int64 (height, width, first row in texels_T3) of every level; the entry of level 0 has row 0.
    """

    base_HW3: np.ndarray
    texels_T3: np.ndarray
    sizes_L3: np.ndarray


@dataclass(frozen=True)
class FaceTexels:
    """Where the faces lie in the texture.

    texels_F32: float32, texture coordinates of the corners in texels, row 0 at the top, texel centres at
        half-integers. area_F: float64, twice the area in texels. max_level_F: float32.
    flat_F: bool, all texels in reach of bilinear lookups within the face's bounds are equal.
    """

    texels_F32: np.ndarray
    area_F: np.ndarray
    max_level_F: np.ndarray
    flat_F: np.ndarray


def build_mips(texture_HW3: np.ndarray) -> MipTexture:
    """Halves with area weights, odd sizes included, down to 1 x 1."""
    # Pictures from a file are read-only arrays, for which numba would compile every kernel once more.
    base_HW3 = np.require(texture_HW3, requirements="CW")
    level_HW3 = base_HW3
    sizes = [(*base_HW3.shape[:2], 0)]
    texels: list[np.ndarray] = []
    while max(level_HW3.shape[:2]) > 1:
        if not texels:
            level_HW3 = SRGB_TO_LINEAR_256[base_HW3]
        level_HW3 = _halve(_halve(level_HW3).swapaxes(0, 1)).swapaxes(0, 1)
        sizes.append((*level_HW3.shape[:2], sum(map(len, texels))))
        texels.append(level_HW3.reshape(-1, 3))
    texels_T3 = np.concatenate(texels) if texels else np.zeros((0, 3), np.float32)
    return MipTexture(base_HW3, texels_T3, np.array(sizes, np.int64))


def face_texels(uvs_V2: np.ndarray, faces_F3: np.ndarray, texture: MipTexture) -> FaceTexels:
    """uvs_V2: (0, 0) at the bottom-left corner of the texture."""
    height, width, _ = texture.base_HW3.shape
    uv_F32 = uvs_V2[faces_F3].astype(np.float64)
    texels_F32 = np.stack([uv_F32[..., 0] * width, (1.0 - uv_F32[..., 1]) * height], axis=-1)
    # Whole repeats are taken off each face, so that float32 keeps its precision.
    size_2 = np.array([width, height], np.float64)
    texels_F32 -= np.floor(texels_F32.min(axis=1, keepdims=True) / size_2) * size_2
    edges_F32 = np.roll(texels_F32, -1, axis=1) - texels_F32
    area_F = np.abs(edges_F32[:, 0, 0] * edges_F32[:, 1, 1] - edges_F32[:, 0, 1] * edges_F32[:, 1, 0])
    longest_F = np.maximum(np.linalg.norm(edges_F32, axis=2).max(axis=1), 1e-12)
    max_level_F = np.log2(np.maximum(area_F / longest_F * 0.5, 1.0)).astype(np.float32)
    flat_F = np.zeros(len(faces_F3), np.bool_)
    _flat_kernel(texture.base_HW3, _changes_sum(texture.base_HW3), texels_F32, flat_F)
    return FaceTexels(texels_F32.astype(np.float32), area_F, max_level_F, flat_F)


def _halve(rows_HW3: np.ndarray) -> np.ndarray:
    """Half as many rows. An odd number n = 2 m + 1 becomes m rows that each cover n / m of the old ones."""
    count = len(rows_HW3)
    if count == 1:
        return rows_HW3
    half = count // 2
    if count % 2 == 0:
        return (rows_HW3[0::2] + rows_HW3[1::2]) * np.float32(0.5)
    row_H11 = np.arange(half, dtype=np.float32)[:, None, None]
    total_HW3 = (half - row_H11) * rows_HW3[0:-1:2] + half * rows_HW3[1::2] + (row_H11 + 1) * rows_HW3[2::2]
    return total_HW3 / np.float32(count)


@kernel
def _changes_sum(texture_HW3):
    """Summed-area table of the texels that differ from their right or lower neighbour."""
    height, width, _ = texture_HW3.shape
    sums = np.zeros((height + 1, width + 1), np.int32)
    for row in range(height):
        along = np.int32(0)
        below = min(row + 1, height - 1)
        for column in range(width):
            right = min(column + 1, width - 1)
            for channel in range(3):
                texel = texture_HW3[row, column, channel]
                if texel != texture_HW3[row, right, channel] or texel != texture_HW3[below, column, channel]:
                    along += np.int32(1)
                    break
            sums[row + 1, column + 1] = sums[row, column + 1] + along
    return sums


@kernel
def _flat_kernel(texture_HW3, changes, texels_F32, flat_F):
    height, width, _ = texture_HW3.shape
    for face in range(len(texels_F32)):
        x_min = min(texels_F32[face, 0, 0], texels_F32[face, 1, 0], texels_F32[face, 2, 0])
        x_max = max(texels_F32[face, 0, 0], texels_F32[face, 1, 0], texels_F32[face, 2, 0])
        y_min = min(texels_F32[face, 0, 1], texels_F32[face, 1, 1], texels_F32[face, 2, 1])
        y_max = max(texels_F32[face, 0, 1], texels_F32[face, 1, 1], texels_F32[face, 2, 1])
        x0, x1 = int(np.floor(x_min - 0.5)), int(np.floor(x_max - 0.5)) + 1
        y0, y1 = int(np.floor(y_min - 0.5)), int(np.floor(y_max - 0.5)) + 1
        if x0 >= 0 and y0 >= 0 and x1 < width and y1 < height:
            count = changes[y1, x1] - changes[y0, x1] - changes[y1, x0] + changes[y0, x0]
            equal = count == 0
            # The last texel's neighbours inside the box are the only comparisons not counted.
            for channel in range(3):
                equal = equal and texture_HW3[y1, x1, channel] == texture_HW3[y0, x0, channel]
            flat_F[face] = equal
        elif (x1 - x0 + 1) * (y1 - y0 + 1) <= MAX_COMPARED_TEXELS:
            equal = True
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    for channel in range(3):
                        first = texture_HW3[y0 % height, x0 % width, channel]
                        equal = equal and texture_HW3[y % height, x % width, channel] == first
            flat_F[face] = equal
