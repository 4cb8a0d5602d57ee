"""The fast UV atlas: charts that look along the axes, flattened by dropping the axis, packed by their outlines.

Takes some milliseconds on one core where xatlas takes a large part of a second, at the price of more charts and
of texels stretched up to 1 / MIN_COSINE where a surface slants; see `charts` and `chart_packing` for how.

Shape legend: V F vertices and faces, W vertices after splitting along seams, C charts, E = 3 F half-edges,
B border edges
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from get3d_model.jit import kernel
from get3d_model.rendering.chart_packing import pack_charts
from get3d_model.rendering.charts import Charts, cut_charts
from get3d_model.rendering.uv_atlas import UnwrappedMesh
from get3d_model.types import Mesh


@dataclass(frozen=True)
class GridAtlas:
    """The `UvAtlas` for speed. Deterministic; holds no GIL while it computes."""

    def unwrap(self, mesh: Mesh, resolution: int, threads: int = 1) -> UnwrappedMesh:
        """See `UvAtlas.unwrap`. Raises ValueError for vertices that are not finite and faces without vertices."""
        if not len(mesh.faces_F3):
            return UnwrappedMesh(Mesh(mesh.vertices_V3[:0], mesh.faces_F3), np.zeros((0, 2), np.float32))
        # The kernels check no bounds.
        if not np.isfinite(mesh.vertices_V3).all():
            raise ValueError("a mesh with vertices that are NaN or infinite cannot be unwrapped")
        if mesh.faces_F3.min() < 0 or mesh.faces_F3.max() >= len(mesh.vertices_V3):
            raise ValueError(f"faces refer to vertices outside of the {len(mesh.vertices_V3)} there are")
        charts = cut_charts(mesh, threads)
        faces_F3 = np.ascontiguousarray(mesh.faces_F3, np.int32)
        plane_C4, area = _bounds(charts)
        edges_B = np.empty(len(charts.plane_E2), np.int32)
        edges_B = edges_B[: _border_kernel(charts.chart_F, charts.rings_E, edges_B)]
        chart_B = charts.chart_F[edges_B // 3]
        edges_B = edges_B[np.argsort(chart_B, kind="stable")]
        chart_B = charts.chart_F[edges_B // 3]
        ends_B = edges_B // 3 * 3 + (edges_B % 3 + 1) % 3
        border_B4 = np.concatenate([charts.plane_E2[edges_B], charts.plane_E2[ends_B]], axis=1)
        border_B4 -= np.tile(plane_C4[chart_B, :2], 2)
        size_C2 = plane_C4[:, 2:] - plane_C4[:, :2]
        packing = pack_charts(border_B4, chart_B, size_C2, area, resolution, threads)
        source_W, uvs_W2 = np.empty(3 * len(faces_F3), np.int32), np.empty((3 * len(faces_F3), 2), np.float32)
        split_F3 = np.empty_like(faces_F3)
        count = _split_vertices_kernel(
            faces_F3,
            len(mesh.vertices_V3),
            np.argsort(charts.chart_F, kind="stable"),
            charts.chart_F,
            charts.plane_E2,
            plane_C4,
            packing.scale,
            packing.turn_C,
            packing.offset_C2,
            1.0 / resolution,
            source_W,
            uvs_W2,
            split_F3,
        )
        return UnwrappedMesh(Mesh(mesh.vertices_V3[source_W[:count]], split_F3), uvs_W2[:count].copy())


def _bounds(charts: Charts) -> tuple[np.ndarray, float]:
    """(low and high corner of every chart in its plane, C4; area of all faces in their planes)."""
    plane_C4 = np.empty((len(charts), 4))
    return plane_C4, _bounds_kernel(charts.chart_F, charts.plane_E2, plane_C4)


@kernel
def _bounds_kernel(chart_F, plane_E2, plane_C4):
    plane_C4[:, :2] = np.inf
    plane_C4[:, 2:] = -np.inf
    area = 0.0
    for face in range(len(chart_F)):
        chart, e = chart_F[face], 3 * face
        for edge in range(e, e + 3):
            for k in range(2):
                plane_C4[chart, k] = min(plane_C4[chart, k], plane_E2[edge, k])
                plane_C4[chart, 2 + k] = max(plane_C4[chart, 2 + k], plane_E2[edge, k])
        area += 0.5 * abs(
            (plane_E2[e + 1, 0] - plane_E2[e, 0]) * (plane_E2[e + 2, 1] - plane_E2[e, 1])
            - (plane_E2[e + 1, 1] - plane_E2[e, 1]) * (plane_E2[e + 2, 0] - plane_E2[e, 0])
        )
    return area


@kernel
def _border_kernel(chart_F, rings_E, edges_B):
    """Half-edges without a partner in the same chart; returns their number."""
    count = 0
    for half_edge in range(len(rings_E)):
        inner = False
        other = rings_E[half_edge]
        while other != half_edge:
            if chart_F[other // 3] == chart_F[half_edge // 3]:
                inner = True
                break
            other = rings_E[other]
        if not inner:
            edges_B[count] = half_edge
            count += 1
    return count


@kernel
def _split_vertices_kernel(
    faces_F3,
    vertices,
    order_F,
    chart_F,
    plane_E2,
    plane_C4,
    scale,
    turn_C,
    offset_C2,
    texel,
    source_W,
    uvs_W2,
    split_F3,
):
    """One vertex for every vertex and chart it is in, with its place in the atlas; returns their number."""
    chart_V = np.full(vertices, -1, np.int32)
    new_V = np.empty(vertices, np.int32)
    count = 0
    for face in order_F:
        chart = chart_F[face]
        for corner in range(3):
            vertex = faces_F3[face, corner]
            if chart_V[vertex] != chart:
                chart_V[vertex] = chart
                new_V[vertex] = count
                source_W[count] = vertex
                x = plane_E2[3 * face + corner, 0] - plane_C4[chart, 0]
                y = plane_E2[3 * face + corner, 1] - plane_C4[chart, 1]
                width, height = (
                    plane_C4[chart, 2] - plane_C4[chart, 0],
                    plane_C4[chart, 3] - plane_C4[chart, 1],
                )
                for _ in range(turn_C[chart]):
                    x, y = height - y, x
                    width, height = height, width
                uvs_W2[count, 0] = (x * scale + offset_C2[chart, 0]) * texel
                uvs_W2[count, 1] = (y * scale + offset_C2[chart, 1]) * texel
                count += 1
            split_F3[face, corner] = new_V[vertex]
    return count
