"""Marching tetrahedra over a batch of SDFs on one grid, differentiable in SDF and deformation.

Source: Shen et al. 2021, "Deep Marching Tetrahedra" (DMTet), section 3.1.3; Doi & Koide 1991.

Which edges a surface crosses depends on the grid's fixed edge list, so a vertex's index is a running count over
(shape, edge): there is no search for duplicates. On a GPU, kernels do the same without a loop over shapes and with one
wait for the sizes; the tensor operations here define them.

Shape legend: B batch, N grid vertices, E grid edges, T tetrahedra, V F packed mesh vertices and faces
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from get3d_model.isosurface.crossed_edges import HostTables, crossed
from get3d_model.isosurface.grid import TetrahedralGrid, triangle_table
from get3d_model.ops.dispatch import is_fused
from get3d_model.types import ExtractedSurface, GeometryOutput, PackedMeshes

if TYPE_CHECKING:
    from get3d_model.ops.fused.marching_tets import Room


class MarchingTetrahedra(nn.Module):
    """Extracts the zero level set (SDF > 0 inside) of every shape of a batch; faces wind outward."""

    max_deformation_cells = 1.0

    def __init__(self, grid: TetrahedralGrid) -> None:
        super().__init__()
        self.grid = grid
        count, table = triangle_table()
        self.register_buffer("triangle_count", torch.from_numpy(count), persistent=False)
        self.register_buffer("triangle_edges", torch.from_numpy(table), persistent=False)
        self.register_buffer("corner_bit", torch.tensor([1, 2, 4, 8]), persistent=False)
        self._host_tables: HostTables | None = None
        self._room: Room | None = None

    def surface(self, geometry: GeometryOutput) -> ExtractedSurface:
        """See `IsosurfaceExtractor`."""
        return ExtractedSurface(self(geometry.sdf_BN, geometry.deform_BN3))

    def forward(self, sdf_BN: Tensor, deform_BN3: Tensor) -> PackedMeshes:
        """sdf_BN, deform_BN3 (world units) -> packed meshes. A shape of one sign gives an empty mesh."""
        if is_fused(sdf_BN) and sdf_BN.dtype == torch.float32:
            return self._fused(sdf_BN, deform_BN3)
        vertices_V3, faces_F3, counts_2B = self._composed(sdf_BN, deform_BN3)
        ranges_2B2 = torch.stack([counts_2B.cumsum(dim=1) - counts_2B, counts_2B], dim=-1).to(torch.int32)
        return PackedMeshes(vertices_V3, faces_F3, *ranges_2B2.unbind())

    def _fused(self, sdf_BN: Tensor, deform_BN3: Tensor) -> PackedMeshes:
        from get3d_model.ops.fused.marching_tets import Room, TetTables, marching_tetrahedra

        self._room = self._room or Room()
        grid = self.grid
        tables = TetTables(
            grid.vertices_N3, grid.edges_E2, grid.tets_T4, grid.tet_edges_T6, self.triangle_edges
        )
        vertices_V3, faces_F3, ranges_2B2, first_vertex_B = marching_tetrahedra(
            sdf_BN, deform_BN3, tables, self._room
        )
        return PackedMeshes(vertices_V3, faces_F3, *ranges_2B2.unbind(), first_vertex_B)

    def _composed(self, sdf_BN: Tensor, deform_BN3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vertices_V3, faces_F3, vertices and faces of each shape, on the CPU)."""
        inside_BN = sdf_BN.detach() > 0
        found = (
            self._crossed_on_host(inside_BN) if inside_BN.device.type == "cpu" else self._crossed(inside_BN)
        )
        shape_V, edge_V, faces_F3, counts_2B = found
        edge_a, edge_b = self.grid.edges_E2[edge_V].unbind(dim=1)
        return self._vertices(sdf_BN, deform_BN3, shape_V, edge_a, edge_b), faces_F3, counts_2B

    def _crossed_on_host(self, inside_BN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `_crossed`, several times as fast."""
        if self._host_tables is None:
            grid = self.grid
            self._host_tables = HostTables(
                *(
                    table.to(torch.int32).numpy()
                    for table in (grid.edges_E2, grid.tets_T4, grid.tet_edges_T6)
                ),
                *(table.to(torch.uint8).numpy() for table in (self.triangle_count, self.triangle_edges)),
            )
        found = [crossed(inside_N, self._host_tables) for inside_N in inside_BN]
        counts_2B = torch.tensor([[len(edge_V) for edge_V, _ in found], [len(faces) for _, faces in found]])
        firsts = (counts_2B[0].cumsum(0) - counts_2B[0]).tolist()
        return (
            torch.arange(len(found)).repeat_interleave(counts_2B[0]),
            torch.cat([edge_V for edge_V, _ in found]),
            torch.cat([faces_F3 + first for (_, faces_F3), first in zip(found, firsts, strict=True)]),
            counts_2B,
        )

    @torch.no_grad()
    def _crossed(self, inside_BN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(shape of every vertex, its edge, faces_F3, vertices and faces of each shape on the CPU)."""
        batch, num_edges = inside_BN.shape[0], self.grid.edges_E2.shape[0]
        edge_a, edge_b = self.grid.edges_E2.unbind(dim=1)
        crossed_BE = inside_BN.index_select(1, edge_a) != inside_BN.index_select(1, edge_b)
        shape_V, edge_V = crossed_BE.nonzero(as_tuple=True)
        vertex_of = (crossed_BE.flatten().cumsum(0) - 1).view(batch, num_edges)
        faces_F3, face_counts_B = self._faces(inside_BN, vertex_of)
        return shape_V, edge_V, faces_F3, torch.stack([crossed_BE.sum(dim=1), face_counts_B]).cpu()

    def _vertices(
        self, sdf_BN: Tensor, deform_BN3: Tensor, shape_V: Tensor, a_V: Tensor, b_V: Tensor
    ) -> Tensor:
        """Linear interpolation of the two ends of every crossed edge."""
        num = sdf_BN.shape[1]
        flat_a, flat_b = shape_V * num + a_V, shape_V * num + b_V
        sdf_flat, deform_flat = sdf_BN.reshape(-1), deform_BN3.reshape(-1, 3)
        sdf_a, sdf_b = sdf_flat[flat_a], sdf_flat[flat_b]
        position_a = self.grid.vertices_N3[a_V] + deform_flat[flat_a]
        position_b = self.grid.vertices_N3[b_V] + deform_flat[flat_b]
        # The signs differ, so the denominator is never zero.
        weight_V1 = (sdf_a / (sdf_a - sdf_b))[:, None]
        return position_a + weight_V1 * (position_b - position_a)

    def _faces(self, inside_BN: Tensor, vertex_of_BE: Tensor) -> tuple[Tensor, Tensor]:
        """(faces_F3 int32 grouped by shape, faces per shape)."""
        batch = inside_BN.shape[0]
        corners = inside_BN.index_select(1, self.grid.tets_T4.flatten()).view(batch, -1, 4)
        code_BT = (corners * self.corner_bit).sum(dim=-1)
        triangles_BT = self.triangle_count[code_BT]
        face_counts_B = triangles_BT.sum(dim=1)
        shape_S, tet_S = triangles_BT.nonzero(as_tuple=True)
        code_S = code_BT[shape_S, tet_S]
        local_S23 = self.triangle_edges[code_S]
        edges_S23 = self.grid.tet_edges_T6[tet_S].gather(1, local_S23.flatten(1)).view(-1, 2, 3)
        vertices_S23 = vertex_of_BE[shape_S[:, None, None], edges_S23]
        # Keep the second triangle of a tetrahedron only where the case has two; order stays by shape.
        keep_S2 = torch.stack(
            [torch.ones_like(code_S, dtype=torch.bool), self.triangle_count[code_S] == 2], dim=1
        )
        return vertices_S23[keep_S2].to(torch.int32), face_counts_B
