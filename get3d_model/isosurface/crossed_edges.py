"""Which edges and tetrahedra of a grid a surface crosses, found on the host.

Signs are all that this depends on, so it has no gradient; the vertices' positions are interpolated elsewhere.

Shape legend: N grid vertices, E grid edges, T tetrahedra, V crossed edges (mesh vertices), F faces
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from get3d_model.jit import kernel


@dataclass(frozen=True)
class HostTables:
    """A grid's tables on the host.

    edges_E2, tets_T4, tet_edges_T6: int32, as in `TetrahedralGrid`. triangle_count_16, triangle_edges_1623: uint8, as
    `triangle_table` gives them.
    """

    edges_E2: np.ndarray
    tets_T4: np.ndarray
    tet_edges_T6: np.ndarray
    triangle_count_16: np.ndarray
    triangle_edges_1623: np.ndarray


def crossed(inside_N: Tensor, tables: HostTables) -> tuple[Tensor, Tensor]:
    """(indices of the crossed edges, ascending, V int64; faces as indices into them, F3 int32) of one shape.

    inside_N: bool on the CPU. The faces are in the order of their tetrahedra.
    """
    inside = inside_N.contiguous().view(torch.uint8).numpy()
    edges, tets = len(tables.edges_E2), len(tables.tets_T4)
    # Only the parts that a surface reaches are ever touched.
    crossed_E, vertex_of_E = np.empty(edges, np.int64), np.empty(edges, np.int32)
    tet_T, code_T = np.empty(tets, np.int32), np.empty(tets, np.uint8)
    counts_3 = np.zeros(3, np.int64)
    _cross_kernel(
        inside,
        tables.edges_E2,
        tables.tets_T4,
        tables.triangle_count_16,
        crossed_E,
        vertex_of_E,
        tet_T,
        code_T,
        counts_3,
    )
    vertices, crossed_tets, faces = counts_3
    faces_F3 = np.empty((faces, 3), np.int32)
    _faces_kernel(
        tet_T[:crossed_tets],
        code_T,
        tables.tet_edges_T6,
        tables.triangle_count_16,
        tables.triangle_edges_1623,
        vertex_of_E,
        faces_F3,
    )
    return torch.from_numpy(crossed_E[:vertices].copy()), torch.from_numpy(faces_F3)


@kernel
def _cross_kernel(
    inside_N, edges_E2, tets_T4, triangle_count_16, crossed_E, vertex_of_E, tet_T, code_T, counts_3
):
    """counts_3: crossed edges, crossed tetrahedra, faces."""
    vertices, crossed_tets, faces = 0, 0, 0
    for edge in range(len(edges_E2)):
        if inside_N[edges_E2[edge, 0]] != inside_N[edges_E2[edge, 1]]:
            crossed_E[vertices] = edge
            vertex_of_E[edge] = vertices
            vertices += 1
    for tet in range(len(tets_T4)):
        code = (
            inside_N[tets_T4[tet, 0]]
            | inside_N[tets_T4[tet, 1]] << 1
            | inside_N[tets_T4[tet, 2]] << 2
            | inside_N[tets_T4[tet, 3]] << 3
        )
        if 0 < code < 15:
            tet_T[crossed_tets] = tet
            code_T[crossed_tets] = code
            crossed_tets += 1
            faces += triangle_count_16[code]
    counts_3[0], counts_3[1], counts_3[2] = vertices, crossed_tets, faces


@kernel
def _faces_kernel(tet_T, code_T, tet_edges_T6, triangle_count_16, triangle_edges_1623, vertex_of_E, faces_F3):
    face = 0
    for index in range(len(tet_T)):
        tet, code = tet_T[index], code_T[index]
        for triangle in range(triangle_count_16[code]):
            for corner in range(3):
                edge = tet_edges_T6[tet, triangle_edges_1623[code, triangle, corner]]
                faces_F3[face, corner] = vertex_of_E[edge]
            face += 1
