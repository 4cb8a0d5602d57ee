"""Needed texels of an atlas and the fill of its texture, a few launches each: see rendering/device_texels.py.

Arithmetic is that of the CPU's loops, in float64 and without fused multiply-adds, so that edges between faces decide
every texel alike. Written down first: a 1024 texture with 11 000 faces and 4 600 border edges tries 2.3 million texels
of boxes, 50 float64 operations each, and moves 30 MB: below 0.1 ms; launches and the one synchronisation are the rest.

Shape legend: F faces, B border edges, H texture size, P = H^2 texels, T needed texels
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
# Of a face's or an edge's box at once.
BOX = 64


@triton.jit
def _clamped_range(low, high, size):
    """First and one beyond the last of the texels whose centres lie in [low, high]."""
    first = tl.maximum(tl.ceil(low - 0.5), 0.0).to(tl.int32)
    last = tl.minimum(tl.floor(high - 0.5), size - 1.0).to(tl.int32)
    return first, tl.maximum(last + 1, first)


@triton.jit
def _cover_kernel(faces_F32, key_P, size, BOX: tl.constexpr):
    """A face claims the texels whose centres it covers: the lowest key, -1 - face, wins."""
    face = tl.program_id(0).to(tl.int64)
    at = faces_F32 + face * 6
    x0, y0, x1, y1 = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
    x2, y2 = tl.load(at + 4), tl.load(at + 5)
    det = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    sign = tl.where(det > 0.0, 1.0, -1.0).to(tl.float64)
    column0, column1 = _clamped_range(
        tl.minimum(tl.minimum(x0, x1), x2), tl.maximum(tl.maximum(x0, x1), x2), size
    )
    row0, row1 = _clamped_range(tl.minimum(tl.minimum(y0, y1), y2), tl.maximum(tl.maximum(y0, y1), y2), size)
    wide = column1 - column0
    texels = tl.where(det != 0.0, wide * (row1 - row0), 0)
    for first in range(0, texels, BOX):
        index = first + tl.arange(0, BOX)
        column, row = column0 + index % wide, row0 + index // wide
        x, y = column.to(tl.float64) + 0.5, row.to(tl.float64) + 0.5
        inside = (
            (index < texels)
            & (sign * ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) >= 0.0)
            & (sign * ((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)) >= 0.0)
            & (sign * ((x0 - x2) * (y - y2) - (y0 - y2) * (x - x2)) >= 0.0)
        )
        key = tl.zeros((BOX,), tl.int64) - 1 - face
        tl.atomic_min(key_P + row * size + column, key, mask=inside)


@triton.jit
def _surround_kernel(faces_F32, half_edge_B, key_P, size, ring, BOX: tl.constexpr):
    """A border edge claims the texels around it that no face covers: the nearest edge wins, of equals the first."""
    half_edge = tl.load(half_edge_B + tl.program_id(0)).to(tl.int64)
    start = faces_F32 + half_edge * 2
    end = faces_F32 + (half_edge // 3 * 3 + (half_edge + 1) % 3) * 2
    x0, y0, x1, y1 = tl.load(start), tl.load(start + 1), tl.load(end), tl.load(end + 1)
    column0, column1 = _clamped_range(tl.minimum(x0, x1) - ring, tl.maximum(x0, x1) + ring, size)
    row0, row1 = _clamped_range(tl.minimum(y0, y1) - ring, tl.maximum(y0, y1) + ring, size)
    dx, dy = x1 - x0, y1 - y0
    square = dx * dx + dy * dy
    wide = column1 - column0
    texels = wide * (row1 - row0)
    for first in range(0, texels, BOX):
        index = first + tl.arange(0, BOX)
        column, row = column0 + index % wide, row0 + index // wide
        px, py = column.to(tl.float64) + 0.5 - x0, row.to(tl.float64) + 0.5 - y0
        t = tl.where(square > 0.0, (px * dx + py * dy) / tl.where(square > 0.0, square, 1.0), 0.0)
        t = tl.minimum(tl.maximum(t, 0.0), 1.0)
        away_x, away_y = px - t * dx, py - t * dy
        distance = (away_x * away_x + away_y * away_y).to(tl.float32)
        # Bits of floats that are not negative have the order of the floats.
        key = (distance.to(tl.int32, bitcast=True).to(tl.int64) << 32) | half_edge
        near = (index < texels) & (distance < ring * ring)
        tl.atomic_min(key_P + row * size + column, key, mask=near)


@triton.jit
def _corner(at):
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)


@triton.jit(do_not_specialize=["T"])
def _points_kernel(pixel_T, key_P, faces_F32, corners_F33, points_T3, T, size, overhang, BLOCK: tl.constexpr):
    """Where needed texels lie in the world; see `rendering.texels._points_kernel`, whose rounding this follows."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < T
    pixel = tl.load(pixel_T + index, mask=mask, other=0)
    key = tl.load(key_P + pixel, mask=mask, other=-1)
    covered = key < 0
    half_edge = key & 0xFFFFFFFF
    face = tl.where(covered, -1 - key, half_edge // 3)
    edge = tl.where(covered, 0, half_edge % 3)
    at = faces_F32 + face * 6
    ax, ay = tl.load(at), tl.load(at + 1)
    bx, by = tl.load(at + 2) - ax, tl.load(at + 3) - ay
    cx, cy = tl.load(at + 4) - ax, tl.load(at + 5) - ay
    x, y = (pixel % size).to(tl.float64) + 0.5, (pixel // size).to(tl.float64) + 0.5
    px, py = x - ax, y - ay
    det = bx * cy - by * cx
    flat = tl.abs(det) <= 1e-9
    divisor = tl.where(flat, 1.0, det)
    v = tl.where(flat, 0.0, (px * cy - py * cx) / divisor)
    w = tl.where(flat, 0.0, (bx * py - by * px) / divisor)
    world = corners_F33 + face * 9
    ix, iy, iz = _corner(world)
    jx, jy, jz = _corner(world + 3)
    kx, ky, kz = _corner(world + 6)
    inner_x = ix + v * (jx - ix).to(tl.float64) + w * (kx - ix).to(tl.float64)
    inner_y = iy + v * (jy - iy).to(tl.float64) + w * (ky - iy).to(tl.float64)
    inner_z = iz + v * (jz - iz).to(tl.float64) + w * (kz - iz).to(tl.float64)

    # The nearest point of the border edge, and from there along the face's plane.
    following = (edge + 1) % 3
    ex, ey = tl.load(at + 2 * edge), tl.load(at + 2 * edge + 1)
    dx, dy = tl.load(at + 2 * following) - ex, tl.load(at + 2 * following + 1) - ey
    qx, qy = x - ex, y - ey
    square = dx * dx + dy * dy
    t = tl.where(square > 0.0, (qx * dx + qy * dy) / tl.where(square > 0.0, square, 1.0), 0.0)
    t = tl.minimum(tl.maximum(t, 0.0), 1.0)
    fx, fy, fz = _corner(world + 3 * edge)
    sx, sy, sz = _corner(world + 3 * following)
    fx, fy, fz = fx.to(tl.float64), fy.to(tl.float64), fz.to(tl.float64)
    near_x, near_y, near_z = fx + t * (sx - fx), fy + t * (sy - fy), fz + t * (sz - fz)
    ox, oy, oz = ix.to(tl.float64), iy.to(tl.float64), iz.to(tl.float64)
    away_x = tl.where(flat, 0.0, ox + v * (jx - ox) + w * (kx - ox) - near_x)
    away_y = tl.where(flat, 0.0, oy + v * (jy - oy) + w * (ky - oy) - near_y)
    away_z = tl.where(flat, 0.0, oz + v * (jz - oz) + w * (kz - oz) - near_z)
    length = away_x * away_x + away_y * away_y + away_z * away_z
    bx3, by3, bz3 = (jx - ix).to(tl.float64), (jy - iy).to(tl.float64), (jz - iz).to(tl.float64)
    cx3, cy3, cz3 = (kx - ix).to(tl.float64), (ky - iy).to(tl.float64), (kz - iz).to(tl.float64)
    nx, ny, nz = by3 * cz3 - bz3 * cy3, bz3 * cx3 - bx3 * cz3, bx3 * cy3 - by3 * cx3
    area = nx * nx + ny * ny + nz * nz
    texel = tl.sqrt(tl.sqrt(area) / tl.abs(divisor))
    beyond = length > 0.0
    share = tl.minimum(overhang * texel / tl.sqrt(tl.where(beyond, length, 1.0)), 1.0)
    share = tl.where(beyond, share, 0.0)
    out = points_T3 + index * 3
    near_x, near_y, near_z = near_x.to(tl.float32), near_y.to(tl.float32), near_z.to(tl.float32)
    tl.store(out, tl.where(covered, inner_x, near_x + share * away_x).to(tl.float32), mask=mask)
    tl.store(out + 1, tl.where(covered, inner_y, near_y + share * away_y).to(tl.float32), mask=mask)
    tl.store(out + 2, tl.where(covered, inner_z, near_z + share * away_z).to(tl.float32), mask=mask)


@triton.jit(do_not_specialize=["T"])
def _scatter_kernel(pixel_T, color_T3, sums_P4, T, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < T
    pixel = tl.load(pixel_T + index, mask=mask, other=0)
    for channel in tl.static_range(3):
        color = tl.load(color_T3 + index * 3 + channel, mask=mask, other=0).to(tl.int32)
        tl.store(sums_P4 + pixel * 4 + channel, color, mask=mask)
    tl.store(sums_P4 + pixel * 4 + 3, tl.full((BLOCK,), 1, tl.int32), mask=mask)


@triton.jit
def _halve_kernel(from_P4, to_P4, side, BLOCK: tl.constexpr):
    """Sums of blocks of 2 x 2; side: of the result. One lane for every number."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < side * side * 4
    channel, block = index % 4, index // 4
    row, column = block // side, block % side
    at = from_P4 + (4 * row * side + 2 * column) * 4 + channel
    total = tl.load(at, mask=mask, other=0) + tl.load(at + 4, mask=mask, other=0)
    total += tl.load(at + 8 * side, mask=mask, other=0) + tl.load(at + 8 * side + 4, mask=mask, other=0)
    tl.store(to_P4 + index, total, mask=mask)


@triton.jit
def _fill_kernel(sums, texture_P3, size, levels, BLOCK: tl.constexpr):
    """The mean of the smallest block around a texel that has any; sums: all levels, the texels first."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < size * size
    row, column = index // size, index % size
    red = tl.full((BLOCK,), 255, tl.int32)
    green, blue = red, red
    missing = mask
    first = 0
    side = size
    for _ in range(levels + 1):
        at = sums + (first + row * side + column) * 4
        count = tl.load(at + 3, mask=missing, other=0)
        found = missing & (count > 0)
        divisor = tl.maximum(count, 1)
        red = tl.where(found, (tl.load(at, mask=found, other=0) + count // 2) // divisor, red)
        green = tl.where(found, (tl.load(at + 1, mask=found, other=0) + count // 2) // divisor, green)
        blue = tl.where(found, (tl.load(at + 2, mask=found, other=0) + count // 2) // divisor, blue)
        missing = missing & (count == 0)
        first += side * side
        side //= 2
        row, column = row // 2, column // 2
    out = texture_P3 + index * 3
    tl.store(out, red.to(tl.uint8), mask=mask)
    tl.store(out + 1, green.to(tl.uint8), mask=mask)
    tl.store(out + 2, blue.to(tl.uint8), mask=mask)


def claimed(faces_F32: Tensor, half_edge_B: Tensor, key_P: Tensor, resolution: int, ring: float) -> None:
    """Lowers key_P (int64, of resolution^2 texels) by the keys of all faces and of the border edges around them.

    faces_F32: float64 texel coordinates. half_edge_B: int64.
    """
    faces_F32 = faces_F32.contiguous()
    exact = {"BOX": BOX, "num_warps": 2, "enable_fp_fusion": False}
    if len(faces_F32):
        _cover_kernel[(len(faces_F32),)](faces_F32, key_P, resolution, **exact)
    if len(half_edge_B):
        _surround_kernel[(len(half_edge_B),)](faces_F32, half_edge_B, key_P, resolution, ring, **exact)


def points(
    pixel_T: Tensor, key_P: Tensor, faces_F32: Tensor, corners_F33: Tensor, resolution: int, overhang: float
) -> Tensor:
    """World points of the needed texels, T3 float32."""
    points_T3 = torch.empty(len(pixel_T), 3, device=pixel_T.device)
    if len(pixel_T):
        _points_kernel[(triton.cdiv(len(pixel_T), BLOCK),)](
            pixel_T, key_P, faces_F32.contiguous(), corners_F33.contiguous(), points_T3, len(pixel_T), resolution,
            overhang, BLOCK=BLOCK, enable_fp_fusion=False,
        )  # fmt: skip
    return points_T3


def filled(pixel_T: Tensor, color_T3: Tensor, resolution: int) -> Tensor:
    """HH3 uint8 from the colours of the needed texels."""
    sides = [resolution]
    while sides[-1] % 2 == 0:
        sides.append(sides[-1] // 2)
    sums = torch.zeros(sum(side * side for side in sides), 4, dtype=torch.int32, device=pixel_T.device)
    if len(pixel_T):
        grid = (triton.cdiv(len(pixel_T), BLOCK),)
        _scatter_kernel[grid](pixel_T, color_T3.contiguous(), sums, len(pixel_T), BLOCK=BLOCK)
    parts = sums.split([side * side for side in sides])
    for side, finer, coarser in zip(sides[1:], parts[:-1], parts[1:], strict=True):
        _halve_kernel[(triton.cdiv(4 * side * side, BLOCK),)](finer, coarser, side, BLOCK=BLOCK)
    texture_HH3 = torch.empty(resolution, resolution, 3, dtype=torch.uint8, device=pixel_T.device)
    grid = (triton.cdiv(resolution * resolution, BLOCK),)
    _fill_kernel[grid](sums, texture_HH3, resolution, len(sides) - 1, BLOCK=BLOCK)
    return texture_HH3
