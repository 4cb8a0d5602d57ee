"""Which texels of an atlas a surface needs, where they lie in the world, and what fills the rest.

A texel is needed when its centre is covered by a face or lies within RING texels of a chart's border: a bilinear
lookup on the surface reads no other. Outside of the border the plane of the border's face is continued, so that
interpolation at the border meets the field's value there, from either side of a seam. All other texels take the
mean of the needed texels of the smallest mip-map block around them that has any: every level of a mip-map then
holds means of the surface's colours alone.

Shape legend: W vertices, F faces, E = 3 F half-edges, B border half-edges, H texture size, T needed texels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from get3d_model.jit import kernel
from get3d_model.parallel_for import parallel_for
from get3d_model.rendering.cpu.connectivity import edge_rings
from get3d_model.rendering.uv_atlas import UnwrappedMesh

# Texels. A bilinear lookup at a border reads centres up to the square root of two away.
RING = 2.0
# How far a texel's point may lie from the border's face, in sizes of a texel on that face.
MAX_OVERHANG = 2.0 * RING
BANDS = 32
# The fill works on bands of 2^5 rows.
BAND_LEVELS = 5


@dataclass(frozen=True)
class Texels:
    """pixel_T: int64 indices row * H + column, ascending; row 0 is the top (v = 1). points_T3: float32, world."""

    pixel_T: np.ndarray
    points_T3: np.ndarray


def border_half_edges(faces_F3: np.ndarray, vertices: int) -> np.ndarray:
    """Half-edges without a partner, 3 * face + corner, ascending; int32."""
    rings_E = edge_rings(faces_F3, vertices, 1)
    return np.flatnonzero(rings_E == np.arange(len(rings_E), dtype=rings_E.dtype)).astype(np.int32)


def needed_texels(unwrapped: UnwrappedMesh, resolution: int, threads: int = 1) -> Texels:
    """The texels that lookups on the surface read. The result does not depend on the number of threads."""
    faces_F3 = np.ascontiguousarray(unwrapped.mesh.faces_F3, np.int32)
    vertices_W3 = np.ascontiguousarray(unwrapped.mesh.vertices_V3, np.float32)
    if not len(faces_F3):
        return Texels(np.zeros(0, np.int64), np.zeros((0, 3), np.float32))
    # Texel coordinates: x to the right, y down, centres at half-integers.
    xy_W2 = unwrapped.uvs_W2.astype(np.float64) * (resolution, -resolution) + (0.0, resolution)
    border_B = border_half_edges(faces_F3, len(vertices_W3))
    # 4 * face, plus 0 where a face covers the centre, plus 1 to 3 beyond its edge 0 to 2; -1 where not needed.
    owner_HH = np.full((resolution, resolution), -1, np.int32)
    distance_HH = np.full((resolution, resolution), RING * RING, np.float32)
    bands = min(BANDS, resolution)
    parallel_for(_cover_kernel, bands, threads, bands, xy_W2, faces_F3, border_B, owner_HH, distance_HH)
    pixel_T = np.flatnonzero(owner_HH.reshape(-1) >= 0)
    points_T3 = np.empty((len(pixel_T), 3), np.float32)
    units = min(BANDS, max(1, len(pixel_T) // 1024))
    parallel_for(
        _points_kernel, units, threads, units, xy_W2, vertices_W3, faces_F3, owner_HH, pixel_T, points_T3
    )
    return Texels(pixel_T, points_T3)


def texture_of(texels: Texels, color_T3: np.ndarray, resolution: int, threads: int = 1) -> np.ndarray:
    """HH3 uint8 with `color_T3` at the needed texels, and the rest filled as described above; white when there
    are none. resolution: a power of two, or the fill stops at the level where a side is odd. The result does not
    depend on the number of threads."""
    if not len(texels.pixel_T):
        return np.full((resolution, resolution, 3), 255, np.uint8)
    texture_HH3 = np.empty((resolution, resolution, 3), np.uint8)
    known_HH = np.zeros((resolution, resolution), np.bool_)
    levels = (resolution & -resolution).bit_length() - 1
    # Sums of colours and counts of all levels but the finest, one after the other.
    sides = resolution >> np.arange(1, levels + 1)
    first_L = np.concatenate([[0, 0], np.cumsum(sides**2)]).astype(np.int64)
    sums = np.zeros((first_L[-1], 4), np.uint32)
    # Bands hold whole blocks of their first levels.
    band_levels = min(levels, BAND_LEVELS)
    units = resolution >> band_levels
    starts_U = np.searchsorted(texels.pixel_T, np.arange(units + 1) * (resolution << band_levels))
    color_T3 = np.ascontiguousarray(color_T3)
    parallel_for(
        _scatter_kernel, units, threads, starts_U, texels.pixel_T, color_T3, band_levels, first_L, texture_HH3,
        known_HH, sums,
    )  # fmt: skip
    _sum_levels_kernel(first_L, resolution, band_levels + 1, levels, 0, resolution, sums)
    parallel_for(
        _fill_kernel, units, threads, resolution // units, levels, first_L, known_HH, sums, texture_HH3
    )
    return texture_HH3


@kernel
def _cover_kernel(first_unit, end_unit, bands, xy_W2, faces_F3, border_B, owner_HH, distance_HH):
    """Fills rows of owner_HH and distance_HH (squared distance to the border, 0 where covered)."""
    size = owner_HH.shape[0]
    # One pass over the faces for all of its bands: a row takes them in the same order whatever the bands are.
    row_first, row_end = size * first_unit // bands, size * end_unit // bands
    for face in range(len(faces_F3)):
        a, b, c = faces_F3[face]
        x0, y0, x1, y1 = xy_W2[a, 0], xy_W2[a, 1], xy_W2[b, 0], xy_W2[b, 1]
        x2, y2 = xy_W2[c, 0], xy_W2[c, 1]
        row0 = max(int(np.ceil(min(y0, y1, y2) - 0.5)), row_first)
        row1 = min(int(np.floor(max(y0, y1, y2) - 0.5)), row_end - 1)
        if row0 > row1:
            continue
        det = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if det == 0.0:
            continue
        # All coordinates are those of the texture: the same numbers for both faces of an edge.
        sign = 1.0 if det > 0.0 else -1.0
        column0 = max(int(np.ceil(min(x0, x1, x2) - 0.5)), 0)
        column1 = min(int(np.floor(max(x0, x1, x2) - 0.5)), size - 1)
        ux, uy, vx, vy, wx, wy = x1 - x0, y1 - y0, x2 - x1, y2 - y1, x0 - x2, y0 - y2
        for row in range(row0, row1 + 1):
            y = row + 0.5
            for column in range(column0, column1 + 1):
                x = column + 0.5
                if (
                    sign * (ux * (y - y0) - uy * (x - x0)) >= 0.0
                    and sign * (vx * (y - y1) - vy * (x - x1)) >= 0.0
                    and sign * (wx * (y - y2) - wy * (x - x2)) >= 0.0
                ):
                    owner_HH[row, column] = 4 * face
                    distance_HH[row, column] = 0.0
    for half_edge in border_B:
        face, corner = half_edge // 3, half_edge % 3
        a, b = faces_F3[face, corner], faces_F3[face, (corner + 1) % 3]
        x0, y0, x1, y1 = xy_W2[a, 0], xy_W2[a, 1], xy_W2[b, 0], xy_W2[b, 1]
        row0 = max(int(np.ceil(min(y0, y1) - RING - 0.5)), row_first)
        row1 = min(int(np.floor(max(y0, y1) + RING - 0.5)), row_end - 1)
        column0 = max(int(np.ceil(min(x0, x1) - RING - 0.5)), 0)
        column1 = min(int(np.floor(max(x0, x1) + RING - 0.5)), size - 1)
        dx, dy = x1 - x0, y1 - y0
        square = dx * dx + dy * dy
        for row in range(row0, row1 + 1):
            for column in range(column0, column1 + 1):
                px, py = column + 0.5 - x0, row + 0.5 - y0
                t = (px * dx + py * dy) / square if square > 0.0 else 0.0
                t = min(max(t, 0.0), 1.0)
                distance = np.float32((px - t * dx) ** 2 + (py - t * dy) ** 2)
                if distance < distance_HH[row, column]:
                    owner_HH[row, column] = 4 * face + 1 + corner
                    distance_HH[row, column] = distance


@kernel
def _points_kernel(first_unit, end_unit, units, xy_W2, vertices_W3, faces_F3, owner_HH, pixel_T, points_T3):
    size = owner_HH.shape[0]
    for unit in range(first_unit, end_unit):
        for index in range(len(pixel_T) * unit // units, len(pixel_T) * (unit + 1) // units):
            row, column = pixel_T[index] // size, pixel_T[index] % size
            face, edge = owner_HH[row, column] >> 2, (owner_HH[row, column] & 3) - 1
            i, j, k = faces_F3[face]
            ax, ay = xy_W2[i]
            bx, by = xy_W2[j, 0] - ax, xy_W2[j, 1] - ay
            cx, cy = xy_W2[k, 0] - ax, xy_W2[k, 1] - ay
            px, py = column + 0.5 - ax, row + 0.5 - ay
            det = bx * cy - by * cx
            flat = abs(det) <= 1e-9
            v = 0.0 if flat else (px * cy - py * cx) / det
            w = 0.0 if flat else (bx * py - by * px) / det
            if edge < 0:
                for axis in range(3):
                    origin = vertices_W3[i, axis]
                    points_T3[index, axis] = (
                        origin + v * (vertices_W3[j, axis] - origin) + w * (vertices_W3[k, axis] - origin)
                    )
                continue
            # The nearest point of the border edge, and from there along the face's plane.
            first, second = faces_F3[face, edge], faces_F3[face, (edge + 1) % 3]
            dx, dy = xy_W2[second, 0] - xy_W2[first, 0], xy_W2[second, 1] - xy_W2[first, 1]
            qx, qy = column + 0.5 - xy_W2[first, 0], row + 0.5 - xy_W2[first, 1]
            square = dx * dx + dy * dy
            t = min(max((qx * dx + qy * dy) / square, 0.0), 1.0) if square > 0.0 else 0.0
            ex, ey, ez = 0.0, 0.0, 0.0
            length = 0.0
            for axis in range(3):
                near = vertices_W3[first, axis] + t * (
                    np.float64(vertices_W3[second, axis]) - vertices_W3[first, axis]
                )
                origin = np.float64(vertices_W3[i, axis])
                b, c = vertices_W3[j, axis] - origin, vertices_W3[k, axis] - origin
                beyond = 0.0 if flat else origin + v * b + w * c - near
                length += beyond * beyond
                points_T3[index, axis] = near
                if axis == 0:
                    ex = beyond
                elif axis == 1:
                    ey = beyond
                else:
                    ez = beyond
            if length > 0.0:
                area = 0.0
                for axis in range(3):
                    m, n = (axis + 1) % 3, (axis + 2) % 3
                    bm, bn = vertices_W3[j, m] - vertices_W3[i, m], vertices_W3[j, n] - vertices_W3[i, n]
                    cm, cn = vertices_W3[k, m] - vertices_W3[i, m], vertices_W3[k, n] - vertices_W3[i, n]
                    cross = np.float64(bm) * cn - np.float64(bn) * cm
                    area += cross * cross
                texel = np.sqrt(np.sqrt(area) / abs(det))
                share = min(1.0, MAX_OVERHANG * texel / np.sqrt(length))
                points_T3[index, 0] += share * ex
                points_T3[index, 1] += share * ey
                points_T3[index, 2] += share * ez


@kernel
def _scatter_kernel(
    first_unit, end_unit, starts_U, pixel_T, color_T3, band_levels, first_L, texture_HH3, known_HH, sums
):
    """Colours of the needed texels, and their sums in the levels of bands of 2^band_levels rows."""
    size = texture_HH3.shape[0]
    half = size >> 1
    for unit in range(first_unit, end_unit):
        for index in range(starts_U[unit], starts_U[unit + 1]):
            row, column = pixel_T[index] // size, pixel_T[index] % size
            known_HH[row, column] = True
            block = (row >> 1) * half + (column >> 1)
            for channel in range(3):
                texture_HH3[row, column, channel] = color_T3[index, channel]
                if band_levels:
                    sums[block, channel] += color_T3[index, channel]
            if band_levels:
                sums[block, 3] += 1
        _sum_levels_kernel(
            first_L, size, 2, band_levels, unit << band_levels, (unit + 1) << band_levels, sums
        )


@kernel
def _sum_levels_kernel(first_L, size, first_level, last_level, row_first, row_end, sums):
    """Levels first_level to last_level between two rows of the texture, each from the one before it."""
    for level in range(first_level, last_level + 1):
        side = size >> level
        for row in range(row_first >> level, row_end >> level):
            for column in range(side):
                to = first_L[level] + row * side + column
                at = first_L[level - 1] + 4 * row * side + 2 * column
                for channel in range(4):
                    sums[to, channel] = (
                        sums[at, channel]
                        + sums[at + 1, channel]
                        + sums[at + 2 * side, channel]
                        + sums[at + 2 * side + 1, channel]
                    )


@kernel
def _fill_kernel(first_unit, end_unit, rows, levels, first_L, known_HH, sums, texture_HH3):
    size = texture_HH3.shape[0]
    for row in range(first_unit * rows, end_unit * rows):
        for column in range(size):
            if known_HH[row, column]:
                continue
            texture_HH3[row, column] = 255
            for level in range(1, levels + 1):
                block = first_L[level] + (row >> level) * (size >> level) + (column >> level)
                count = sums[block, 3]
                if count:
                    for channel in range(3):
                        texture_HH3[row, column, channel] = (sums[block, channel] + count // 2) // count
                    break
