"""FlexiCubes over a batch of SDFs on one grid, differentiable in SDF, deformation and weights.

Source: Shen et al. 2023, "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization".
The paper's SDF is negative inside. Ours is positive inside, which changes no formula; faces look to the negative
side. (The published GET3D hands its positive-inside SDF over unchanged, so its FlexiCubes faces look inward.)

Only the classification visits every cube. All that follows visits the cubes that the surface passes through,
for all shapes at once; a dual vertex's index is a running count over (shape, cube, patch).

Shape legend: B batch, N grid vertices, Q cubes, S surface cubes of the batch, D dual vertices of the batch,
K quads of the batch, V F packed mesh vertices and faces, 7 slots for the edges of a patch
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.isosurface.cube_grid import CubeGrid
from get3d_model.isosurface.dual_tables import CUBE_EDGES, dual_tables, quad_edges
from get3d_model.ops.dispatch import is_fused
from get3d_model.types import EdgeDeviation, ExtractedSurface, GeometryOutput, PackedMeshes

NUM_WEIGHTS = 21
ALL_INSIDE = 255


@dataclass(frozen=True)
class SurfaceCubes:
    """The cubes of a batch that have corners on both sides, by shape, then by cube.

    shape_S, cube_S: int64. code_S: int64, bit k set where corner k is inside.
    case_S: the code, or its complement where an ambiguous face is joined the other way (see `dual_tables`).
    slot_BQ: int32, a surface cube's place among S; undefined for other cubes.
    """

    shape_S: Tensor
    cube_S: Tensor
    code_S: Tensor
    case_S: Tensor
    slot_BQ: Tensor

    def gather(self, values_BQC: Tensor) -> Tensor:
        """The rows of the surface cubes; SC."""
        return values_BQC.flatten(0, 1).index_select(0, self.shape_S * values_BQC.shape[1] + self.cube_S)


@dataclass(frozen=True)
class Plan:
    """The dual vertices and quads of the surface cubes, by shape, then by slot, then by patch or axis.

    counts_2B: dual vertices and quads of each shape; host_counts_2B: the same on the CPU.
    first_S: a surface cube's first dual vertex. slot_D, patch_D: whose patch a dual vertex is.
    slot_K, axis_K: the quad crosses the edge from that cube's corner 0 along that axis.
    others_K3: the other cubes around that edge.
    """

    counts_2B: Tensor
    host_counts_2B: Tensor
    first_S: Tensor
    slot_D: Tensor
    patch_D: Tensor
    slot_K: Tensor
    axis_K: Tensor
    others_K3: Tensor


@dataclass(frozen=True)
class FlexiCubesOutput:
    """Meshes and what their regulariser needs.

    deviation_D7: for the edges of each dual vertex (in packed order, quad midpoints left out), how far the
        distance between the vertex and the crossing lies from their mean; 0 in unused slots. World units.
    used_D7: bool, the slots in use.
    """

    meshes: PackedMeshes
    deviation_D7: Tensor
    used_D7: Tensor


def vertex_weights(raw_S21: Tensor) -> tuple[Tensor, Tensor]:
    """(beta_S12 per edge, alpha_S8 per corner) in the published range (0.5, 1.5)."""
    beta_S12, alpha_S8 = (1.0 + 0.5 * torch.tanh(raw_S21[:, :20])).split([12, 8], dim=1)
    return beta_S12, alpha_S8


def quad_weights(raw_S21: Tensor) -> Tensor:
    """gamma_S of whole cubes in the published range (0.25, 0.75)."""
    return 0.25 + 0.5 * torch.sigmoid(raw_S21[:, 20])


class FlexiCubes(nn.Module):
    """Extracts the zero level set (SDF >= 0 inside) of every shape of a batch; faces wind outward.

    In training mode (`nn.Module.train`) a quad becomes four triangles around its midpoint, which is smooth in
    gamma; in evaluation mode two triangles along the better diagonal. A surface that leaves the grid is open there.
    """

    max_deformation_cells = 0.5  # two neighbours that move towards each other meet, but do not pass

    def __init__(self, grid: CubeGrid) -> None:
        super().__init__()
        self.grid = grid
        tables = dual_tables()
        for name, array in (
            ("patch_count", tables.patch_count_256),
            ("patch_of_edge", tables.patch_of_edge_256x12),
            ("patch_edges", tables.patch_edges_256x4x7),
            ("patch_size", tables.patch_size_256x4),
            ("problem_face", tables.problem_face_256),
            ("quad_edges", quad_edges()),
            ("cube_edges", CUBE_EDGES),
            # For the edge from corner 0 along each axis: its other end's bit in a code, and the lower face along
            # the axis two further on.
            ("edge_end_bit", (2, 4, 16)),
            ("second_lower_face", (4, 0, 2)),
        ):
            self.register_buffer(name, torch.as_tensor(array), persistent=False)

    def surface(self, geometry: GeometryOutput) -> ExtractedSurface:
        """See `IsosurfaceExtractor`; the weights of empty shapes, too, get no gradient."""
        cubes = self.surface_cubes(geometry.sdf_BN)
        raw_S21 = cubes.gather(geometry.weights_BQ21)
        empty_S1 = geometry.empty_B[cubes.shape_S][:, None]
        raw_S21 = torch.where(empty_S1, raw_S21.detach(), raw_S21)
        output = self.extract(cubes, geometry.sdf_BN, geometry.deform_BN3, raw_S21)
        return ExtractedSurface(output.meshes, EdgeDeviation(output.deviation_D7, output.used_D7))

    def forward(self, sdf_BN: Tensor, deform_BN3: Tensor, raw_weights_BQ21: Tensor) -> FlexiCubesOutput:
        """sdf_BN, deform_BN3 (world units), raw weights (12 beta, 8 alpha, 1 gamma) -> meshes and deviations."""
        surface = self.surface_cubes(sdf_BN)
        return self.extract(surface, sdf_BN, deform_BN3, surface.gather(raw_weights_BQ21))

    @torch.no_grad()
    def surface_cubes(self, sdf_BN: Tensor) -> SurfaceCubes:
        """Finds and classifies the cubes the surface passes through. Zero counts as inside, as published.

        Callers that compute weights for these cubes only can skip all others; see `extract`.
        """
        batch, num_cubes = sdf_BN.shape[0], self.grid.cubes_Q8.shape[0]
        code_BQ = self._codes((sdf_BN >= 0).to(torch.uint8))
        shape_S, cube_S = ((code_BQ != 0) & (code_BQ != ALL_INSIDE)).nonzero(as_tuple=True)
        code_S = code_BQ[shape_S, cube_S].long()
        slot_BQ = torch.empty(batch, num_cubes, dtype=torch.int32, device=sdf_BN.device)
        slot_BQ[shape_S, cube_S] = torch.arange(len(shape_S), dtype=torch.int32, device=sdf_BN.device)

        face_S = self.problem_face[code_S]
        across_S = self.grid.neighbors_Q6[cube_S, face_S.clamp(min=0)].long()
        face_across_S = self.problem_face[code_BQ[shape_S, across_S.clamp(min=0)].long()]
        # Face f meets face f ^ 1 of the neighbour.
        meet_S = (face_S >= 0) & (across_S >= 0) & (face_across_S == face_S ^ 1)
        case_S = torch.where(meet_S, ALL_INSIDE - code_S, code_S)
        return SurfaceCubes(shape_S, cube_S, code_S, case_S, slot_BQ)

    def _codes(self, inside_BN: Tensor) -> Tensor:
        """BQ: bit k is the value at corner k. inside_BN: uint8, 0 or 1."""
        if len(self.grid.lattices) == 1:
            # Bit k = x + 2 y + 4 z weighs 2^x 4^y 16^z: one axis after the other, without a gather.
            codes = inside_BN.unflatten(1, tuple(len(axis) for axis in self.grid.lattices[0]))
            for dim, weight in ((1, 2), (2, 4), (3, 16)):
                cubes = codes.shape[dim] - 1
                codes = torch.add(codes.narrow(dim, 0, cubes), codes.narrow(dim, 1, cubes), alpha=weight)
            return codes.flatten(1)
        code_BQ = inside_BN.new_zeros(len(inside_BN), len(self.grid.cubes_Q8))
        for corner in range(8):
            at_corner_BQ = inside_BN.index_select(1, self.grid.cubes_Q8[:, corner])
            code_BQ.add_(at_corner_BQ, alpha=1 << corner)
        return code_BQ

    def extract(
        self, surface: SurfaceCubes, sdf_BN: Tensor, deform_BN3: Tensor, raw_weights_S21: Tensor
    ) -> FlexiCubesOutput:
        """The meshes, given the raw weights of the surface cubes alone."""
        batch = sdf_BN.shape[0]
        with torch.no_grad():
            plan = self._plan(surface, batch)
            slots_K4, duals_K4 = self._quads(surface, plan)
        fused = is_fused(sdf_BN) and sdf_BN.dtype == raw_weights_S21.dtype == torch.float32
        make_vertices = self._fused_vertices if fused else self._dual_vertices
        vertices_D3, deviation_D7, used_D7 = make_vertices(surface, plan, sdf_BN, deform_BN3, raw_weights_S21)
        # The weight of the diagonal between the first and third, and the second and fourth corner.
        gamma_K4 = pick(quad_weights(raw_weights_S21), slots_K4)
        diagonal_K2 = gamma_K4[:, :2] * gamma_K4[:, 2:]
        if self.training:
            vertices_V3, faces_F3 = split_at_midpoint(
                vertices_D3, surface.shape_S[plan.slot_D], duals_K4, surface.shape_S[plan.slot_K], diagonal_K2,
                plan.counts_2B,
            )  # fmt: skip
            counts_2B = torch.stack([plan.host_counts_2B.sum(dim=0), 4 * plan.host_counts_2B[1]])
        else:
            vertices_V3, faces_F3 = vertices_D3, split_along_diagonal(duals_K4, diagonal_K2)
            counts_2B = torch.stack([plan.host_counts_2B[0], 2 * plan.host_counts_2B[1]])
        ranges_2B2 = torch.stack([counts_2B.cumsum(dim=1) - counts_2B, counts_2B], dim=-1).to(torch.int32)
        meshes = PackedMeshes(
            vertices_V3, faces_F3.to(torch.int32), ranges_2B2[0].contiguous(), ranges_2B2[1].contiguous()
        )
        return FlexiCubesOutput(meshes, deviation_D7, used_D7)

    def _plan(self, surface: SurfaceCubes, batch: int) -> Plan:
        """Finds the dual vertices and quads; one wait for the device, for their numbers.

        The quad of an edge belongs to the cube whose corner 0 is the edge's lower end and that holds it there,
        so each is found once.
        """
        lower_S3 = self.grid.neighbors_Q6[surface.cube_S][:, 0::2].long()
        # Cyclic axes: for the edge along `axis`, the cubes below in axis + 1, in both, and in axis + 2.
        below_b_S3, below_c_S3 = lower_S3.roll(-1, dims=1), lower_S3.roll(-2, dims=1)
        below_bc_S3 = self.grid.neighbors_Q6[below_b_S3.clamp(min=0), self.second_lower_face].long()
        below_S33 = torch.stack([below_b_S3, below_bc_S3, below_c_S3], dim=2)
        inside_S1 = surface.code_S[:, None] & 1 != 0
        crossed_S3 = (surface.code_S[:, None] & self.edge_end_bit != 0) != inside_S1
        crossed_S3 = (crossed_S3 & (below_S33 >= 0).all(dim=2)).long()

        patches_S = self.patch_count[surface.case_S]
        through_2S = torch.stack([patches_S, crossed_S3.sum(dim=1)]).cumsum(dim=1)
        shapes = torch.arange(batch + 1, device=patches_S.device)
        first_slots = torch.searchsorted(surface.shape_S, shapes)
        counts_2B = F.pad(through_2S, (1, 0)).index_select(1, first_slots).diff(dim=1)
        host_counts_2B = counts_2B.cpu()
        duals, quads = host_counts_2B.sum(dim=1).tolist()
        first_S = through_2S[0] - patches_S
        slot_D = torch.repeat_interleave(patches_S, output_size=duals)
        patch_D = torch.arange(duals, device=slot_D.device) - first_S[slot_D]
        crossing_K = torch.repeat_interleave(crossed_S3.flatten(), output_size=quads)
        others_K3 = below_S33.flatten(0, 1)[crossing_K]
        slot_K = torch.div(crossing_K, 3, rounding_mode="floor")
        return Plan(
            counts_2B, host_counts_2B, first_S, slot_D, patch_D, slot_K, crossing_K - 3 * slot_K, others_K3
        )

    def _dual_vertices(
        self,
        surface: SurfaceCubes,
        plan: Plan,
        sdf_BN: Tensor,
        deform_BN3: Tensor,
        raw_weights_S21: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(positions, distance deviations, slots in use).

        Paper: the dual vertex is the beta-weighted mean of the crossings of its patch's edges, which interpolate
        with alpha-scaled SDF values. The deviation is taken to the plain crossings, which all cubes at an edge
        share; the reference arrays agree with no other reading.
        """
        slot_D, patch_D = plan.slot_D, plan.patch_D
        shape_D, cube_D, case_D = surface.shape_S[slot_D], surface.cube_S[slot_D], surface.case_S[slot_D]
        edges_D7, size_D1 = self.patch_edges[case_D, patch_D], self.patch_size[case_D, patch_D][:, None]
        used_D7 = torch.arange(edges_D7.shape[1], device=size_D1.device) < size_D1
        corners_D72 = self.cube_edges[edges_D7]
        ends_D72 = self.grid.cubes_Q8[cube_D[:, None, None], corners_D72]
        flat_D72 = shape_D[:, None, None] * sdf_BN.shape[1] + ends_D72
        sdf_D72 = pick(sdf_BN.reshape(-1), flat_D72)
        position_D723 = self.grid.vertices_N3[ends_D72] + pick(deform_BN3.reshape(-1, 3), flat_D72)
        beta_S12, alpha_S8 = vertex_weights(raw_weights_S21)
        alpha_D72 = pick(alpha_S8.reshape(-1), slot_D[:, None, None] * 8 + corners_D72)
        beta_D7 = pick(beta_S12.reshape(-1), slot_D[:, None] * 12 + edges_D7) * used_D7

        crossing_D73 = interpolate_zero(position_D723, sdf_D72 * alpha_D72)
        vertices_D3 = (beta_D7[..., None] * crossing_D73).sum(dim=1) / beta_D7.sum(dim=1, keepdim=True)
        offset_D73 = interpolate_zero(position_D723, sdf_D72) - vertices_D3[:, None]
        distance_D7 = torch.linalg.vector_norm(offset_D73, dim=-1)
        mean_D1 = (distance_D7 * used_D7).sum(dim=1, keepdim=True) / size_D1
        return vertices_D3, (distance_D7 - mean_D1).abs() * used_D7, used_D7

    def _fused_vertices(
        self, surface: SurfaceCubes, plan: Plan, sdf_BN: Tensor, deform_BN3: Tensor, raw_weights_S21: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`_dual_vertices` by a kernel."""
        from get3d_model.ops.fused.dual_vertices import DualPlaces, DualVertices

        places = DualPlaces(
            surface.shape_S, surface.cube_S, surface.case_S, plan.slot_D, plan.patch_D, self.patch_edges,
            self.patch_size, self.cube_edges, self.grid.cubes_Q8, self.grid.vertices_N3,
        )  # fmt: skip
        vertices_D3, deviation_D7 = DualVertices.apply(sdf_BN, deform_BN3, raw_weights_S21, places)
        size_D1 = self.patch_size[surface.case_S[plan.slot_D], plan.patch_D][:, None]
        used_D7 = torch.arange(deviation_D7.shape[1], device=size_D1.device) < size_D1
        return vertices_D3, deviation_D7, used_D7

    def _quads(self, surface: SurfaceCubes, plan: Plan) -> tuple[Tensor, Tensor]:
        """(slots_K4, duals_K4): the four cubes and dual vertices around each crossed inner grid edge.

        Faces wind outward.
        """
        slot_K1 = plan.slot_K[:, None]
        others_K3 = surface.slot_BQ[surface.shape_S[slot_K1], plan.others_K3].long()
        slots_K4 = torch.cat([slot_K1, others_K3], dim=1)
        patches_K4 = self.patch_of_edge[surface.case_S[slots_K4], self.quad_edges[plan.axis_K]]
        duals_K4 = plan.first_S[slots_K4] + patches_K4
        # Counter-clockwise about the axis looks along it: outward where the edge leaves the inside.
        outward_K1 = surface.code_S[slot_K1] & 1 != 0
        slots_K4 = torch.where(outward_K1, slots_K4, slots_K4.flip(1))
        duals_K4 = torch.where(outward_K1, duals_K4, duals_K4.flip(1))
        return slots_K4, duals_K4


def pick(values: Tensor, index: Tensor) -> Tensor:
    """values[index]: rows by an index of any shape. The gradient is added in place: indexing would sort first."""
    return values.index_select(0, index.flatten()).view(*index.shape, *values.shape[1:])


def interpolate_zero(ends_D723: Tensor, values_D72: Tensor) -> Tensor:
    """Where the linear function through two values of different sign vanishes; D73."""
    start, end = ends_D723.unbind(dim=2)
    at_start, at_end = values_D72.unbind(dim=2)
    return start + (at_start / (at_start - at_end))[..., None] * (end - start)


def split_along_diagonal(duals_K4: Tensor, diagonal_K2: Tensor) -> Tensor:
    """Two triangles per quad, along the diagonal of greater weight; F3."""
    along_first_K = diagonal_K2[:, 0] > diagonal_K2[:, 1]
    a, b, c, d = duals_K4.unbind(dim=1)
    # Triangles abc and acd, or abd and bcd: only the third and the fourth entry differ.
    third_K, fourth_K = torch.where(along_first_K, c, d), torch.where(along_first_K, a, b)
    return torch.stack([a, b, third_K, fourth_K, c, d], dim=1).view(-1, 3)


def split_at_midpoint(
    vertices_D3: Tensor,
    shape_D: Tensor,
    duals_K4: Tensor,
    shape_K: Tensor,
    diagonal_K2: Tensor,
    counts_2B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Four triangles per quad: (vertices_V3, faces_F3). counts_2B: dual vertices and quads of each shape.

    Paper (flexible quad splitting): the midpoint is the mean of the midpoints of both diagonals, weighted by the product of
    their ends' gamma. The dual vertices of a shape come first, then its midpoints.
    """
    corners_K43 = pick(vertices_D3, duals_K4)
    middles_K23 = 0.5 * (corners_K43[:, :2] + corners_K43[:, 2:])
    mids_K3 = (diagonal_K2[..., None] * middles_K23).sum(dim=1) / diagonal_K2.sum(dim=1, keepdim=True)
    duals_B, mids_B = counts_2B
    # A dual vertex moves up by the midpoints of the shapes before, a midpoint by all dual vertices up to its shape's.
    mids_before_B, duals_through_B = mids_B.cumsum(0) - mids_B, duals_B.cumsum(0)
    place_D = torch.arange(len(shape_D), device=shape_D.device) + mids_before_B[shape_D]
    place_K = torch.arange(len(shape_K), device=shape_K.device) + duals_through_B[shape_K]
    both_V3 = torch.cat([vertices_D3, mids_K3])
    vertices_V3 = torch.empty_like(both_V3).index_copy(0, torch.cat([place_D, place_K]), both_V3)
    rim_K4, mid_K4 = place_D[duals_K4], place_K[:, None].expand(-1, 4)
    faces_F3 = torch.stack([rim_K4, rim_K4.roll(-1, dims=1), mid_K4], dim=2).view(-1, 3)
    return vertices_V3, faces_F3
