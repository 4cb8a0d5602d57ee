"""Packs charts into a square by their true outlines, on a bitmap (see `chart_bitmap`).

Scales are tried from large to small until one fits, several at once on several threads.

Shape legend: C charts, B border edges of charts, T tries
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from get3d_model.parallel_for import parallel_for
from get3d_model.rendering.chart_bitmap import marked_kernel, pack_kernel

# Sides of the bitmap: a cell has 4 texels of a 1024 texture.
MIN_CELLS, MAX_CELLS = 256, 512
TEXELS_PER_CELL = 4
# Texels around a chart that are its own, along x and along y: no two charts' bilinear lookups read the same texel.
GUTTER = 1.25
# Scales are tried by the share of the bitmap that the charts would take with their gutters, until one fits: outlines
# of isosurfaces pack up to 0.80 to 0.87.
DENSITIES = (0.83, 0.805, 0.78, 0.755, 0.73, 0.70, 0.66, 0.62, 0.58, 0.53, 0.48, 0.40, 0.30, 0.20)
# On several threads; further tries are seldom needed.
TRIES_AT_ONCE = 4
# Steps of the search for the scale of a density, and how near it has to come.
DENSITY_STEPS, DENSITY_TOLERANCE = 6, 0.01
FINEST_CELLS = 4096


@dataclass(frozen=True)
class Packing:
    """Where the charts lie: corner = turned(scale * (plane - low)) + offset, in texels, v up.

    scale: texels per world unit. turn_C: quarter turns counter-clockwise of a chart within its box.
    offset_C2: texels.
    """

    scale: float
    turn_C: np.ndarray
    offset_C2: np.ndarray


def pack_charts(
    border_B4: np.ndarray,
    chart_B: np.ndarray,
    size_C2: np.ndarray,
    area: float,
    resolution: int,
    threads: int = 1,
) -> Packing:
    """border_B4: float64 (x0, y0, x1, y1) of the charts' border edges, counter-clockwise, from their chart's lower
    left corner, in world units. chart_B: int32, ascending. size_C2: the charts' widths and heights. area: of all
    faces in their planes.

    Charts get GUTTER texels of their own on all sides. Where there are too many charts for that, the gutter
    shrinks until all of them fit. Several scales are tried at once on several threads; the result does not depend on
    their number. Raises ValueError when that is hopeless (millions of charts).
    """
    cells = min(max(resolution // TEXELS_PER_CELL, MIN_CELLS), MAX_CELLS, resolution)
    gutter = GUTTER * cells / resolution
    # By area, and where that does not fit, by the shorter side: which packs best is chance.
    keys_2C = np.stack([size_C2.prod(axis=1), size_C2.min(axis=1)])
    orders_2C = np.argsort(-keys_2C, axis=1, kind="stable").astype(np.int32)
    start_C = np.searchsorted(chart_B, np.arange(len(size_C2) + 1)).astype(np.int64)
    while cells <= FINEST_CELLS:
        found = _search(border_B4, start_C, size_C2, orders_2C, area, cells, gutter, threads)
        if found is not None:
            scale, turn_C, offset_C2 = found
            texels = resolution / cells
            return Packing(scale * texels, turn_C, (offset_C2 + gutter) * texels)
        cells, gutter = cells * 2, min(gutter, 0.5)
    raise ValueError(f"{len(size_C2)} charts cannot be packed; the mesh is too ragged for an atlas")


def _search(
    border_B4: np.ndarray,
    start_C: np.ndarray,
    size_C2: np.ndarray,
    orders_2C: np.ndarray,
    area: float,
    cells: int,
    gutter: float,
    threads: int,
) -> tuple[float, np.ndarray, np.ndarray] | None:
    """(cells per world unit, turns, offsets in cells) of the first density and order to fit; None when none does."""
    tries = [(density, order_C) for density in DENSITIES for order_C in orders_2C]
    turn_TC = np.zeros((len(tries), len(size_C2)), np.int32)
    offset_TC2 = np.zeros((len(tries), len(size_C2), 2))
    scale_T: list[float | None] = [None] * len(tries)
    fits_T = np.zeros(len(tries), np.bool_)

    def attempt(first: int, end: int) -> None:
        for number in range(first, end):
            density, order_C = tries[number]
            scale = scale_T[number] = scale_of(density)
            if scale is not None:
                pack_kernel(
                    border_B4, start_C, size_C2, order_C, scale, gutter, cells, turn_TC[number],
                    offset_TC2[number], number, fits_T,
                )  # fmt: skip

    @cache
    def scale_of(density: float) -> float | None:
        return _scale_of(border_B4, start_C, size_C2, area, cells, gutter, density)

    at_once = max(1, min(threads, TRIES_AT_ONCE))
    for first in range(0, len(tries), at_once):
        end = min(first + at_once, len(tries))
        parallel_for(lambda a, b, first=first: attempt(first + a, first + b), end - first, at_once)
        if fits_T.any():
            best = int(fits_T.argmax())
            return scale_T[best], turn_TC[best], offset_TC2[best]
    return None


def _scale_of(
    border_B4: np.ndarray,
    start_C: np.ndarray,
    size_C2: np.ndarray,
    area: float,
    cells: int,
    gutter: float,
    density: float,
) -> float | None:
    """Cells per world unit at which the charts take this share of the bitmap; None when their gutters alone take more."""
    largest = float(size_C2.max())
    if largest <= 0.0:
        # Charts without any extent still take their gutter.
        return (
            1.0
            if marked_kernel(border_B4, start_C, size_C2, 1.0, gutter) <= density * cells * cells
            else None
        )
    # No chart may be wider than the bitmap.
    high = (cells - 1 - 2.0 * gutter) / largest
    low, scale = 0.0, min(high, cells * np.sqrt(0.8 * density / area)) if area > 0.0 else high
    for _ in range(DENSITY_STEPS):
        found = marked_kernel(border_B4, start_C, size_C2, scale, gutter) / (cells * cells)
        if found <= density:
            low = scale
            if found >= density - DENSITY_TOLERANCE or scale >= high:
                break
        else:
            high = scale
        guess = scale * np.sqrt((density - 0.3 * DENSITY_TOLERANCE) / found)
        scale = guess if low < guess < high else min(0.5 * (low + high), high)
    return low or None
