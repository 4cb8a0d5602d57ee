"""Finds faces of a chart that lie on one another in its plane (a spiral ramp does), and cuts the chart there.

Triangle is tested against triangle, in the cells of a grid over each chart. Coordinates are float32 positions held
in float64, so that the sign of an area decides without an error margin: what only touches does not overlap.

Shape legend: F faces, E = 3 F half-edges (see cpu/connectivity.py), C charts, P pairs of faces, U units of work,
R room for the pairs of a unit, M faces of a chart
"""

from __future__ import annotations

import numpy as np

from get3d_model.jit import kernel
from get3d_model.parallel_for import parallel_for

# Whole charts, about as many faces in each unit.
UNITS = 32


def split_overlaps(chart_F: np.ndarray, rings_E: np.ndarray, plane_E2: np.ndarray, threads: int = 1) -> int:
    """Renumbers chart_F (in place) so that no chart overlaps itself, each still connected; returns their number.

    plane_E2: corners in their chart's plane; faces of positive area there are counter-clockwise. The result does not
    depend on the number of threads.
    """
    return _split_kernel(chart_F, rings_E, _overlaps(chart_F, plane_E2, threads))


def _overlaps(chart_F: np.ndarray, plane_E2: np.ndarray, threads: int) -> np.ndarray:
    """Pairs of faces of one chart that overlap in its plane, P2."""
    starts_C, order_F, box_F4 = _sort_kernel(chart_F, plane_E2)
    first_U = np.searchsorted(starts_C, np.arange(UNITS + 1) * len(chart_F) / UNITS)
    found_U = np.zeros(UNITS, np.int64)
    room = 128
    while True:
        pairs_UR2 = np.empty((UNITS, room, 2), np.int32)
        parallel_for(
            _overlap_kernel, UNITS, threads, first_U, starts_C, order_F, box_F4, plane_E2, pairs_UR2, found_U
        )
        if found_U.max() <= room:
            return np.concatenate(
                [pairs_R2[:found] for pairs_R2, found in zip(pairs_UR2, found_U, strict=True)]
            )
        room = int(found_U.max())


@kernel
def _side(plane_E2, a, b, c):
    """Positive when c lies to the left of the line from a to b; exactly 0 when c is a or b."""
    return (plane_E2[b, 0] - plane_E2[a, 0]) * (plane_E2[c, 1] - plane_E2[a, 1]) - (
        plane_E2[b, 1] - plane_E2[a, 1]
    ) * (plane_E2[c, 0] - plane_E2[a, 0])


@kernel
def _separated(plane_E2, first, second):
    """Whether an edge of counter-clockwise triangle `first` has all of `second` on its outer side."""
    for k in range(3):
        a, b = first + k, first + (k + 1) % 3
        if (
            _side(plane_E2, a, b, second) <= 0.0
            and _side(plane_E2, a, b, second + 1) <= 0.0
            and _side(plane_E2, a, b, second + 2) <= 0.0
        ):
            return True
    return False


@kernel
def _sort_kernel(chart_F, plane_E2):
    """(where each chart's faces start and where the last ones end, faces chart by chart, their boxes)."""
    faces = len(chart_F)
    charts = chart_F.max() + 1 if faces else 0
    starts_C = np.zeros(charts + 1, np.int64)
    for face in range(faces):
        starts_C[chart_F[face] + 1] += 1
    for chart in range(charts):
        starts_C[chart + 1] += starts_C[chart]
    order_F = np.empty(faces, np.int32)
    fill_C = starts_C[:charts].copy()
    box_F4 = np.empty((faces, 4))
    for face in range(faces):
        order_F[fill_C[chart_F[face]]] = face
        fill_C[chart_F[face]] += 1
        e = 3 * face
        box_F4[face, 0] = min(plane_E2[e, 0], plane_E2[e + 1, 0], plane_E2[e + 2, 0])
        box_F4[face, 1] = min(plane_E2[e, 1], plane_E2[e + 1, 1], plane_E2[e + 2, 1])
        box_F4[face, 2] = max(plane_E2[e, 0], plane_E2[e + 1, 0], plane_E2[e + 2, 0])
        box_F4[face, 3] = max(plane_E2[e, 1], plane_E2[e + 1, 1], plane_E2[e + 2, 1])
    return starts_C, order_F, box_F4


@kernel
def _overlap_kernel(first_unit, end_unit, first_U, starts_C, order_F, box_F4, plane_E2, pairs_UR2, found_U):
    """Pairs of overlapping faces of one chart; found_U is their number, which may exceed the room in pairs_UR2."""
    for unit in range(first_unit, end_unit):
        found_U[unit] = 0
        for chart in range(first_U[unit], min(first_U[unit + 1], len(starts_C) - 1)):
            members = order_F[starts_C[chart] : starts_C[chart + 1]]
            found_U[unit] = _chart_overlaps(members, box_F4, plane_E2, pairs_UR2[unit], found_U[unit])


@kernel
def _chart_overlaps(members, box_F4, plane_E2, pairs_R2, found):
    """Pairs of overlapping faces of a chart, by a uniform grid over it, behind the first `found`; their number then.

    Two triangles overlap unless one of their six edges separates them. Touching is no overlap, nor are faces
    whose projection has no area.
    """
    if len(members) < 2:
        return found
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for face in members:
        x0, y0 = min(x0, box_F4[face, 0]), min(y0, box_F4[face, 1])
        x1, y1 = max(x1, box_F4[face, 2]), max(y1, box_F4[face, 3])
    longest = max(x1 - x0, y1 - y0)
    if not longest > 0.0:
        return found
    # About one cell per face, no more than 4096 along a side.
    size = max(np.sqrt((x1 - x0) * (y1 - y0) / len(members)), longest / min(4096.0, 2.0 * len(members)))
    columns, rows = int((x1 - x0) / size) + 1, int((y1 - y0) / size) + 1
    heads = np.zeros(columns * rows + 1, np.int32)
    # First and last cell of every member along x and y; none for faces whose projection has no area.
    cells_M4 = np.zeros((len(members), 4), np.int32)
    cells_M4[:, 2:] = -1
    for m in range(len(members)):
        face = members[m]
        if _side(plane_E2, 3 * face, 3 * face + 1, 3 * face + 2) <= 0.0:
            continue
        for k in range(2):
            low = x0 if k == 0 else y0
            cells_M4[m, k] = int((box_F4[face, k] - low) / size)
            cells_M4[m, 2 + k] = int((box_F4[face, 2 + k] - low) / size)
        for row in range(cells_M4[m, 1], cells_M4[m, 3] + 1):
            for column in range(cells_M4[m, 0], cells_M4[m, 2] + 1):
                heads[row * columns + column + 1] += 1
    for cell in range(columns * rows):
        heads[cell + 1] += heads[cell]
    listed = np.empty(heads[columns * rows], np.int32)
    fill = heads[: columns * rows].copy()
    for m in range(len(members)):
        for row in range(cells_M4[m, 1], cells_M4[m, 3] + 1):
            for column in range(cells_M4[m, 0], cells_M4[m, 2] + 1):
                listed[fill[row * columns + column]] = m
                fill[row * columns + column] += 1
    for row in range(rows):
        for column in range(columns):
            cell = row * columns + column
            for i in range(heads[cell], heads[cell + 1]):
                m = listed[i]
                f = members[m]
                for j in range(i + 1, heads[cell + 1]):
                    n = listed[j]
                    # A pair is tested in one of the cells it shares: the one of its boxes' common lower corner.
                    if (
                        max(cells_M4[m, 0], cells_M4[n, 0]) != column
                        or max(cells_M4[m, 1], cells_M4[n, 1]) != row
                    ):
                        continue
                    g = members[n]
                    if (
                        max(box_F4[f, 0], box_F4[g, 0]) >= min(box_F4[f, 2], box_F4[g, 2])
                        or max(box_F4[f, 1], box_F4[g, 1]) >= min(box_F4[f, 3], box_F4[g, 3])
                        or _separated(plane_E2, 3 * f, 3 * g)
                        or _separated(plane_E2, 3 * g, 3 * f)
                    ):
                        continue
                    if found < len(pairs_R2):
                        pairs_R2[found, 0], pairs_R2[found, 1] = f, g
                    found += 1
    return found


@kernel
def _split_kernel(chart_F, rings_E, pairs_P2):
    """Grows charts anew, none over two faces of a pair; renumbers chart_F and returns the number of charts."""
    faces = len(chart_F)
    starts_F = np.zeros(faces + 1, np.int64)
    for pair in range(len(pairs_P2)):
        for k in range(2):
            starts_F[pairs_P2[pair, k] + 1] += 1
    for face in range(faces):
        starts_F[face + 1] += starts_F[face]
    enemies = np.empty(2 * len(pairs_P2), np.int32)
    fill_F = starts_F[:faces].copy()
    for pair in range(len(pairs_P2)):
        for k in range(2):
            face = pairs_P2[pair, k]
            enemies[fill_F[face]] = pairs_P2[pair, 1 - k]
            fill_F[face] += 1
    new_F = np.full(faces, -1, np.int32)
    queue_F = np.empty(faces, np.int32)
    count = 0
    for seed in range(faces):
        if new_F[seed] >= 0:
            continue
        new_F[seed] = count
        queue_F[0] = seed
        next_face, end = 0, 1
        while next_face < end:
            face = queue_F[next_face]
            next_face += 1
            for half_edge in range(3 * face, 3 * face + 3):
                other = rings_E[half_edge]
                while other != half_edge:
                    neighbour = other // 3
                    other = rings_E[other]
                    if new_F[neighbour] >= 0 or chart_F[neighbour] != chart_F[seed]:
                        continue
                    free = True
                    for index in range(starts_F[neighbour], starts_F[neighbour + 1]):
                        if new_F[enemies[index]] == count:
                            free = False
                            break
                    if free:
                        new_F[neighbour] = count
                        queue_F[end] = neighbour
                        end += 1
        count += 1
    chart_F[:] = new_F
    return count
