"""Adding per-pixel gradients onto vertices: deterministic, in parallel, without atomics.

The images are cut into units (row bands), a number that depends on the image sizes only and never on the
number of threads. Every unit adds into its own float64 slice, which spans the vertices it can touch; the
slices are then added per vertex in the order of the units. Units may touch the same vertices (several views
of one mesh); meshes that are disjoint cost one slice per vertex.

Shape legend: B images, U units, S slots of all slices together, V vertices, F faces, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from get3d_model.jit import kernel
from get3d_model.parallel_for import parallel_for

# Enough to keep a workstation busy with one image, few enough that the slices stay small.
MIN_UNITS = 8
VERTICES_PER_REDUCTION = 4096


@dataclass(frozen=True)
class Slices:
    """Where each unit adds: vertex v of unit u is row offsets_U[u] + v - spans_U2[u, 0] of sums_SC.

    spans_U2: int64, first vertex and one past the last that the unit touches.
    offsets_U: int64. sums_SC: float64 zeros.
    """

    spans_U2: np.ndarray
    offsets_U: np.ndarray
    sums_SC: np.ndarray


def bands_for(images: int, height: int) -> int:
    """Row bands per image of a backward pass; a function of the shape alone, for reproducible sums."""
    return max(1, min(height, -(-MIN_UNITS // max(images, 1))))


def make_slices(
    span_kernel: Callable[..., None], units: int, threads: int, channels: int, *arguments: object
) -> Slices:
    """Runs `span_kernel(first, end, *arguments, spans_U2)` and lays the slices out."""
    spans_U2 = np.zeros((units, 2), np.int64)
    parallel_for(span_kernel, units, threads, *arguments, spans_U2)
    sizes_U = spans_U2[:, 1] - spans_U2[:, 0]
    ends_U = np.cumsum(sizes_U)
    return Slices(spans_U2, ends_U - sizes_U, np.zeros((int(ends_U[-1]) if units else 0, channels)))


def reduce_slices(slices: Slices, vertices: int, threads: int) -> np.ndarray:
    """The sum of all units for every vertex, VC float32."""
    result_VC = np.empty((vertices, slices.sums_SC.shape[1]), np.float32)
    runs = -(-vertices // VERTICES_PER_REDUCTION)
    parallel_for(_reduce_kernel, runs, threads, slices.spans_U2, slices.offsets_U, slices.sums_SC, result_VC)
    return result_VC


@kernel
def _reduce_kernel(first_run, end_run, spans_U2, offsets_U, sums_SC, result_VC):
    vertices, channels = result_VC.shape
    first = first_run * VERTICES_PER_REDUCTION
    end = min(vertices, end_run * VERTICES_PER_REDUCTION)
    total_C = np.zeros((end - first, channels))
    for unit in range(len(offsets_U)):
        shift = offsets_U[unit] - spans_U2[unit, 0]
        for vertex in range(max(first, spans_U2[unit, 0]), min(end, spans_U2[unit, 1])):
            for channel in range(channels):
                total_C[vertex - first, channel] += sums_SC[shift + vertex, channel]
    for vertex in range(first, end):
        for channel in range(channels):
            result_VC[vertex, channel] = total_C[vertex - first, channel]


@kernel
def visible_span_kernel(first_unit, end_unit, rast_BHW4, faces_F3, bands, spans_U2):
    """The range of vertices of the triangles visible in each unit."""
    height = rast_BHW4.shape[1]
    for unit in range(first_unit, end_unit):
        image = unit // bands
        band = unit % bands
        low = np.int64(2**62)
        high = np.int64(-1)
        previous = -1
        for row in range(height * band // bands, height * (band + 1) // bands):
            for column in range(rast_BHW4.shape[2]):
                face = int(rast_BHW4[image, row, column, 3]) - 1
                if face < 0 or face == previous:
                    continue
                previous = face
                for corner in range(3):
                    vertex = np.int64(faces_F3[face, corner])
                    low = min(low, vertex)
                    high = max(high, vertex)
        if high >= 0:
            spans_U2[unit, 0] = low
            spans_U2[unit, 1] = high + 1
