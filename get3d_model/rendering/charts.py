"""Cuts a mesh into charts that an axis-parallel projection flattens without a flip or an overlap.

A chart is a connected set of faces that look the same way, one of the six axis directions; dropping that axis
flattens it. Directions come from smoothed normals, so that the noise of an isosurface does not speckle; charts
too small to pay for their border join a neighbour that they can be projected with; wide charts are cut along a
grid, because pieces pack better than wholes; what would still lie on itself is cut as well.

Everything is free of the GIL, so that several meshes can be cut on several threads, and the result depends on the
mesh alone: all but the search for overlaps is sequential.

Shape legend: V F vertices and faces, E = 3 F half-edges (see cpu/connectivity.py), C charts
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from get3d_model.jit import kernel
from get3d_model.rendering.chart_overlaps import split_overlaps
from get3d_model.rendering.cpu.connectivity import edge_rings
from get3d_model.types import Mesh

# A face may be projected along an axis when the cosine between its normal and the axis is at least this. Its
# texels are stretched by the inverse. The axis nearest to a normal has a cosine of at least 0.577.
MIN_COSINE = 0.3
SMOOTHING_STEPS = 2
STRAIGHTENING_STEPS = 4
# A chart below this share of the surface, or of fewer faces, joins a neighbour where it can.
SMALL_AREA = 1.0 / 1500.0
SMALL_FACES = 6
# Charts are cut into pieces no wider than this share of the side of a square of the whole projected area, as
# long as that is some triangles wide: the cuts run along edges, and ragged borders do not pack.
CUT_WIDTH = 0.35
MIN_CUT_TRIANGLES = 5.0


@dataclass(frozen=True)
class Charts:
    """Charts of a mesh.

    chart_F: int32, the chart of each face. label_C: int32, the direction it looks: 2 * axis, plus 1 for the
    negative one. plane_E2: float64, the corners in their chart's plane, counter-clockwise, world units.
    rings_E: half-edges around an edge (see cpu/connectivity.py).
    """

    chart_F: np.ndarray
    label_C: np.ndarray
    plane_E2: np.ndarray
    rings_E: np.ndarray

    def __len__(self) -> int:
        return len(self.label_C)


def cut_charts(mesh: Mesh, threads: int = 1) -> Charts:
    """Charts without flips or overlaps, but for faces without area."""
    vertices_V3 = np.ascontiguousarray(mesh.vertices_V3, np.float32)
    faces_F3 = np.ascontiguousarray(mesh.faces_F3, np.int32)
    faces = len(faces_F3)
    rings_E = _rings(faces_F3, len(vertices_V3))
    normals_F3 = np.zeros((faces, 3))
    label_F = np.zeros(faces, np.int32)
    _label_kernel(vertices_V3, faces_F3, normals_F3, label_F)
    key_F, chart_F = label_F.astype(np.int64), np.empty(faces, np.int32)
    _straighten_kernel(rings_E, normals_F3, key_F, label_F)
    _merge_small_kernel(vertices_V3, faces_F3, rings_E, normals_F3, key_F, label_F, chart_F)
    _cut_kernel(vertices_V3, faces_F3, normals_F3, label_F, chart_F, key_F)
    _straighten_kernel(rings_E, normals_F3, key_F, label_F)
    _merge_small_kernel(vertices_V3, faces_F3, rings_E, normals_F3, key_F, label_F, chart_F)
    plane_E2 = np.empty((3 * faces, 2))
    _project_kernel(vertices_V3, faces_F3, label_F, plane_E2)
    count = split_overlaps(chart_F, rings_E, plane_E2, threads)
    label_C = np.empty(count, np.int32)
    label_C[chart_F] = label_F
    return Charts(chart_F, label_C, plane_E2, rings_E)


def _rings(faces_F3: np.ndarray, vertices: int) -> np.ndarray:
    """`edge_rings`, but a face that names a vertex twice has no neighbours: it would pass for the inner side of
    its neighbour's border."""
    a_F, b_F, c_F = faces_F3.T
    collapsed_F = (a_F == b_F) | (b_F == c_F) | (c_F == a_F)
    count = int(collapsed_F.sum())
    if count:
        faces_F3 = faces_F3.copy()
        faces_F3[collapsed_F] = vertices + np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    return edge_rings(faces_F3, vertices + 3 * count, 1)


@kernel
def _cosine_ok(normals_F3, face, label):
    """Whether a face can be projected along a direction; one without area always can."""
    x, y, z = normals_F3[face]
    along = normals_F3[face, label >> 1]
    if label & 1:
        along = -along
    return along >= MIN_COSINE * np.sqrt(x * x + y * y + z * z)


@kernel
def _nearest_axis(x, y, z):
    """The label of the direction nearest to a vector; the first one of equals."""
    label, best = 0, abs(x)
    if abs(y) > best:
        label, best = 2, abs(y)
    if abs(z) > best:
        label, best = 4, abs(z)
    value = x if label == 0 else (y if label == 2 else z)
    return label + 1 if value < 0.0 else label


@kernel
def _label_kernel(vertices_V3, faces_F3, normals_F3, label_F):
    """Area-weighted normals, and the direction of each face."""
    for face in range(len(faces_F3)):
        i, j, k = faces_F3[face]
        ax = np.float64(vertices_V3[j, 0]) - vertices_V3[i, 0]
        ay = np.float64(vertices_V3[j, 1]) - vertices_V3[i, 1]
        az = np.float64(vertices_V3[j, 2]) - vertices_V3[i, 2]
        bx = np.float64(vertices_V3[k, 0]) - vertices_V3[i, 0]
        by = np.float64(vertices_V3[k, 1]) - vertices_V3[i, 1]
        bz = np.float64(vertices_V3[k, 2]) - vertices_V3[i, 2]
        normals_F3[face, 0] = 0.5 * (ay * bz - az * by)
        normals_F3[face, 1] = 0.5 * (az * bx - ax * bz)
        normals_F3[face, 2] = 0.5 * (ax * by - ay * bx)
    smooth_F3 = normals_F3.copy()
    sums_V3 = np.empty((len(vertices_V3), 3))
    for _ in range(SMOOTHING_STEPS):
        sums_V3[:] = 0.0
        for face in range(len(faces_F3)):
            for corner in range(3):
                for axis in range(3):
                    sums_V3[faces_F3[face, corner], axis] += smooth_F3[face, axis]
        for face in range(len(faces_F3)):
            i, j, k = faces_F3[face]
            for axis in range(3):
                smooth_F3[face, axis] = (sums_V3[i, axis] + sums_V3[j, axis] + sums_V3[k, axis]) / 18.0
    for face in range(len(faces_F3)):
        label = _nearest_axis(smooth_F3[face, 0], smooth_F3[face, 1], smooth_F3[face, 2])
        if not _cosine_ok(normals_F3, face, label):
            label = _nearest_axis(normals_F3[face, 0], normals_F3[face, 1], normals_F3[face, 2])
        label_F[face] = label


@kernel
def _straighten_kernel(rings_E, normals_F3, key_F, label_F):
    """Faces with two neighbours of one other key take that key, and the label that goes with it: teeth along
    borders go. Every such step shortens the borders, so it ends."""
    for _ in range(STRAIGHTENING_STEPS):
        changed = 0
        for face in range(len(key_F)):
            a = rings_E[3 * face] // 3
            b = rings_E[3 * face + 1] // 3
            c = rings_E[3 * face + 2] // 3
            other = b if key_F[b] == key_F[c] else a
            if (
                key_F[other] != key_F[face]
                and (key_F[a] == key_F[b] or key_F[a] == key_F[c] or key_F[b] == key_F[c])
                and _cosine_ok(normals_F3, face, label_F[other])
            ):
                key_F[face], label_F[face] = key_F[other], label_F[other]
                changed += 1
        if changed == 0:
            break


@kernel
def _components(key_F, rings_E, chart_F, order_F, starts_C):
    """Connected faces of equal keys: chart_F, the faces chart by chart, where each chart starts; their number."""
    chart_F[:] = -1
    count, end = 0, 0
    for seed in range(len(key_F)):
        if chart_F[seed] >= 0:
            continue
        starts_C[count] = end
        chart_F[seed] = count
        order_F[end] = seed
        next_face = end
        end += 1
        while next_face < end:
            face = order_F[next_face]
            next_face += 1
            for half_edge in range(3 * face, 3 * face + 3):
                other = rings_E[half_edge]
                while other != half_edge:
                    neighbour = other // 3
                    if chart_F[neighbour] < 0 and key_F[neighbour] == key_F[seed]:
                        chart_F[neighbour] = count
                        order_F[end] = neighbour
                        end += 1
                    other = rings_E[other]
        count += 1
    starts_C[count] = end
    return count


@kernel
def _edge_length(vertices_V3, faces_F3, half_edge):
    a = faces_F3[half_edge // 3, half_edge % 3]
    b = faces_F3[half_edge // 3, (half_edge % 3 + 1) % 3]
    x = np.float64(vertices_V3[a, 0]) - vertices_V3[b, 0]
    y = np.float64(vertices_V3[a, 1]) - vertices_V3[b, 1]
    z = np.float64(vertices_V3[a, 2]) - vertices_V3[b, 2]
    return np.sqrt(x * x + y * y + z * z)


@kernel
def _merge_small_kernel(vertices_V3, faces_F3, rings_E, normals_F3, key_F, label_F, chart_F):
    """Finds the components of equal keys (chart_F); small ones join the neighbour along their longest border.

    label_F and chart_F take the neighbour's values.
    """
    faces = len(faces_F3)
    order_F = np.empty(faces, np.int32)
    starts_C = np.empty(faces + 1, np.int32)
    count = _components(key_F, rings_E, chart_F, order_F, starts_C)
    area_C = np.zeros(count)
    for face in range(faces):
        x, y, z = normals_F3[face]
        area_C[chart_F[face]] += np.sqrt(x * x + y * y + z * z)
    small_area = SMALL_AREA * area_C.sum()
    size_C = starts_C[1 : count + 1] - starts_C[:count]
    border_C = np.zeros(count)
    met_C = np.empty(count, np.int32)
    # A chart that was joined by others stays: they can be projected along its direction, perhaps not another.
    settled_C = np.zeros(count, np.bool_)
    for chart in range(count):
        first, end = starts_C[chart], starts_C[chart + 1]
        if settled_C[chart] or (end - first >= SMALL_FACES and area_C[chart] >= small_area):
            continue
        met = 0
        for index in range(first, end):
            face = order_F[index]
            for half_edge in range(3 * face, 3 * face + 3):
                other = rings_E[half_edge]
                while other != half_edge:
                    neighbour = chart_F[other // 3]
                    if neighbour != chart:
                        if border_C[neighbour] == 0.0:
                            met_C[met] = neighbour
                            met += 1
                            border_C[neighbour] = 1e-30
                        border_C[neighbour] += _edge_length(vertices_V3, faces_F3, half_edge)
                    other = rings_E[other]
        chosen = -1
        while chosen < 0:
            best = -1
            for index in range(met):
                if border_C[met_C[index]] > (border_C[best] if best >= 0 else 0.0):
                    best = met_C[index]
            if best < 0:
                break
            label = label_F[order_F[starts_C[best]]]
            chosen = best
            for index in range(first, end):
                if not _cosine_ok(normals_F3, order_F[index], label):
                    chosen = -1
                    border_C[best] = 0.0
                    break
        for index in range(met):
            border_C[met_C[index]] = 0.0
        if chosen >= 0:
            for index in range(first, end):
                face = order_F[index]
                label_F[face] = label_F[order_F[starts_C[chosen]]]
                chart_F[face] = chosen
            settled_C[chosen] = True
            area_C[chosen] += area_C[chart]
            size_C[chosen] += size_C[chart]


@kernel
def _corner_in_plane(vertices_V3, vertex, label):
    """Coordinates in the plane of a direction, right-handed as seen from where it points."""
    axis = label >> 1
    u = np.float64(vertices_V3[vertex, (axis + 1) % 3])
    v = np.float64(vertices_V3[vertex, (axis + 2) % 3])
    return (-u, v) if label & 1 else (u, v)


@kernel
def _project_kernel(vertices_V3, faces_F3, label_F, plane_E2):
    for face in range(len(faces_F3)):
        for corner in range(3):
            u, v = _corner_in_plane(vertices_V3, faces_F3[face, corner], label_F[face])
            plane_E2[3 * face + corner, 0] = u
            plane_E2[3 * face + corner, 1] = v


@kernel
def _cut_kernel(vertices_V3, faces_F3, normals_F3, label_F, chart_F, key_F):
    """Keys that differ between charts and between the cells of a grid over each wide chart."""
    charts = chart_F.max() + 1
    low_C2 = np.full((charts, 2), np.inf)
    high_C2 = np.full((charts, 2), -np.inf)
    center_F2 = np.empty((len(faces_F3), 2))
    total = 0.0
    for face in range(len(faces_F3)):
        label, chart = label_F[face], chart_F[face]
        total += abs(normals_F3[face, label >> 1])
        center_F2[face] = 0.0
        for corner in range(3):
            point = _corner_in_plane(vertices_V3, faces_F3[face, corner], label)
            for k in range(2):
                low_C2[chart, k] = min(low_C2[chart, k], point[k])
                high_C2[chart, k] = max(high_C2[chart, k], point[k])
                center_F2[face, k] += point[k] / 3.0
    width = max(CUT_WIDTH * np.sqrt(total), MIN_CUT_TRIANGLES * np.sqrt(2.0 * total / len(faces_F3)))
    for face in range(len(faces_F3)):
        chart = chart_F[face]
        key = np.int64(chart)
        for k in range(2):
            extent = high_C2[chart, k] - low_C2[chart, k]
            cells = min(np.ceil(extent / width), 1023.0) if width > 0.0 else 1.0
            cell = 0
            if cells > 1.0:
                cell = int((center_F2[face, k] - low_C2[chart, k]) / extent * cells)
            key = key * 1024 + min(max(cell, 0), 1023)
        key_F[face] = key
