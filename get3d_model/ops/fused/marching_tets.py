"""Marching tetrahedra: count, write vertices and faces, one copy of the sizes to the host.

Every program owns a run of edges (or tetrahedra) and visits all shapes. It first counts what each shape has
there; a running sum over (shape, run) tells where its output goes, so that vertices stand in the order of
(shape, edge), faces in the order of (shape, tetrahedron, triangle).

The host needs the sizes, but does not wait for them before it launches what writes: the room is what the last surfaces
needed and a quarter more. Where that was too little, everything is written again.

Shape legend: B batch, N grid vertices, E grid edges, T tetrahedra, V F packed mesh vertices and faces,
W words of shape bits (see `sign_bits`), R runs: those of edges of all shapes, then those of tetrahedra
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import cdiv
from get3d_model.ops.fused.sign_bits import SHAPES_PER_WORD, WORD, shapes_of_word, sign_bits

RUN = 512
BLOCK_V = 128
SLACK = 1.25
ROUND_UP = 4096
"""Rooms are multiples of it: kernels are compiled anew for sizes that are not multiples of 16."""


@triton.jit
def _edge_ends(edges_E2, edge, ok):
    """Ends of edges; those out of range get vertex 0 twice, which no surface crosses."""
    a = tl.load(edges_E2 + edge * 2, mask=ok, other=0).to(tl.int32)
    b = tl.load(edges_E2 + edge * 2 + 1, mask=ok, other=0).to(tl.int32)
    return a, b


@triton.jit
def _corner_bits(bits_N, tets_T4, tet, ok):
    """Shape bits of the four corners; tetrahedra out of range get vertex 0 four times."""
    c0 = tl.load(bits_N + tl.load(tets_T4 + tet * 4, mask=ok, other=0).to(tl.int32))
    c1 = tl.load(bits_N + tl.load(tets_T4 + tet * 4 + 1, mask=ok, other=0).to(tl.int32))
    c2 = tl.load(bits_N + tl.load(tets_T4 + tet * 4 + 2, mask=ok, other=0).to(tl.int32))
    c3 = tl.load(bits_N + tl.load(tets_T4 + tet * 4 + 3, mask=ok, other=0).to(tl.int32))
    return c0, c1, c2, c3


@triton.jit
def _triangles(c0, c1, c2, c3, k):
    """Triangles of shape k's surface: one around a single corner on either side, two between two and two."""
    inside = ((c0 >> k) & 1) + ((c1 >> k) & 1) + ((c2 >> k) & 1) + ((c3 >> k) & 1)
    return tl.minimum(inside, 4 - inside)


@triton.jit
def _count_edges_kernel(bits, edges_E2, counts_R, B, N, E, runs, RUN_: tl.constexpr):
    run, word = tl.program_id(0), tl.program_id(1)
    edge = run * RUN_ + tl.arange(0, RUN_)
    a, b = _edge_ends(edges_E2, edge, edge < E)
    bits_N = bits + word.to(tl.int64) * N
    differ = tl.load(bits_N + a) ^ tl.load(bits_N + b)
    for k in range(shapes_of_word(word, B)):
        tl.store(counts_R + (word * WORD + k) * runs + run, tl.sum((differ >> k) & 1))


@triton.jit
def _count_faces_kernel(bits, tets_T4, counts_R, first_run, B, N, T, runs, RUN_: tl.constexpr):
    run, word = tl.program_id(0), tl.program_id(1)
    tet = run * RUN_ + tl.arange(0, RUN_)
    c0, c1, c2, c3 = _corner_bits(bits + word.to(tl.int64) * N, tets_T4, tet, tet < T)
    for k in range(shapes_of_word(word, B)):
        total = tl.sum(_triangles(c0, c1, c2, c3, k))
        tl.store(counts_R + first_run + (word * WORD + k) * runs + run, total)


@triton.jit
def _vertices_kernel(
    sdf_BN, deform_BN3, grid_N3, edges_E2, bits, through_R, vertex_of_BE, ends_V2, vertices_V3, B, N, E, runs, room,
    RUN_: tl.constexpr,
):  # fmt: skip
    run, word = tl.program_id(0), tl.program_id(1)
    edge = run * RUN_ + tl.arange(0, RUN_)
    a, b = _edge_ends(edges_E2, edge, edge < E)
    bits_N = bits + word.to(tl.int64) * N
    differ = tl.load(bits_N + a) ^ tl.load(bits_N + b)
    for k in range(shapes_of_word(word, B)):
        crossed_int = (differ >> k) & 1
        total = tl.sum(crossed_int)
        if total > 0:
            shape = word * WORD + k
            crossed = crossed_int != 0
            first = tl.load(through_R + shape * runs + run) - total
            place = first + tl.cumsum(crossed_int, axis=0) - 1
            tl.store(vertex_of_BE + shape.to(tl.int64) * E + edge, place, mask=crossed)
            crossed = crossed & (place < room)
            tl.store(ends_V2 + place * 2, shape * N + a, mask=crossed)
            tl.store(ends_V2 + place * 2 + 1, shape * N + b, mask=crossed)
            sdf_N = sdf_BN + shape.to(tl.int64) * N
            sdf_a = tl.load(sdf_N + a, mask=crossed, other=1.0)
            sdf_b = tl.load(sdf_N + b, mask=crossed, other=0.0)
            # The signs differ, so the denominator is never zero.
            weight = tl.math.div_rn(sdf_a, sdf_a - sdf_b)
            deform_N3 = deform_BN3 + shape.to(tl.int64) * N * 3
            for axis in tl.static_range(3):
                at_a = tl.load(grid_N3 + a * 3 + axis, mask=crossed, other=0.0)
                at_b = tl.load(grid_N3 + b * 3 + axis, mask=crossed, other=0.0)
                at_a += tl.load(deform_N3 + a * 3 + axis, mask=crossed, other=0.0)
                at_b += tl.load(deform_N3 + b * 3 + axis, mask=crossed, other=0.0)
                tl.store(vertices_V3 + place * 3 + axis, at_a + weight * (at_b - at_a), mask=crossed)


@triton.jit(do_not_specialize=["V"])
def _vertices_backward_kernel(
    grad_V3, ends_V2, sdf_BN, deform_BN3, grid_N3, grad_sdf_BN, grad_deform_BN3, V, N, BLOCK: tl.constexpr
):
    """With the point p = a + t (b - a), t = s_a / (s_a - s_b): dt/ds_a = -s_b / d^2, dt/ds_b = s_a / d^2."""
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = vertex < V
    a = tl.load(ends_V2 + vertex * 2, mask=ok, other=0)
    b = tl.load(ends_V2 + vertex * 2 + 1, mask=ok, other=0)
    sdf_a = tl.load(sdf_BN + a, mask=ok, other=1.0)
    sdf_b = tl.load(sdf_BN + b, mask=ok, other=0.0)
    denominator = sdf_a - sdf_b
    weight = sdf_a / denominator
    grad_weight = tl.zeros((BLOCK,), tl.float32)
    for axis in tl.static_range(3):
        grad = tl.load(grad_V3 + vertex * 3 + axis, mask=ok, other=0.0)
        at_a = tl.load(grid_N3 + (a % N) * 3 + axis, mask=ok, other=0.0)
        at_b = tl.load(grid_N3 + (b % N) * 3 + axis, mask=ok, other=0.0)
        at_a += tl.load(deform_BN3 + a * 3 + axis, mask=ok, other=0.0)
        at_b += tl.load(deform_BN3 + b * 3 + axis, mask=ok, other=0.0)
        grad_weight += grad * (at_b - at_a)
        tl.atomic_add(grad_deform_BN3 + a * 3 + axis, grad * (1.0 - weight), mask=ok, sem="relaxed")
        tl.atomic_add(grad_deform_BN3 + b * 3 + axis, grad * weight, mask=ok, sem="relaxed")
    # The weight times a quotient of like size: no square of a small denominator.
    scaled = grad_weight / denominator
    tl.atomic_add(grad_sdf_BN + a, scaled * (1.0 - weight), mask=ok, sem="relaxed")
    tl.atomic_add(grad_sdf_BN + b, scaled * weight, mask=ok, sem="relaxed")


@triton.jit
def _faces_kernel(
    bits, tets_T4, tet_edges_T6, table_16x2x3, through_R, first_run, vertex_of_BE, faces_F3, B, N, E, T, runs, room,
    RUN_: tl.constexpr,
):  # fmt: skip
    run, word = tl.program_id(0), tl.program_id(1)
    tet = run * RUN_ + tl.arange(0, RUN_)
    c0, c1, c2, c3 = _corner_bits(bits + word.to(tl.int64) * N, tets_T4, tet, tet < T)
    vertices_before = tl.load(through_R + first_run - 1)
    for k in range(shapes_of_word(word, B)):
        triangles = _triangles(c0, c1, c2, c3, k)
        total = tl.sum(triangles)
        if total > 0:
            shape = word * WORD + k
            first = tl.load(through_R + first_run + shape * runs + run) - vertices_before - total
            place = first + tl.cumsum(triangles, axis=0) - triangles
            code = ((c0 >> k) & 1) + ((c1 >> k) & 1) * 2 + ((c2 >> k) & 1) * 4 + ((c3 >> k) & 1) * 8
            vertex_of_E = vertex_of_BE + shape.to(tl.int64) * E
            for triangle in tl.static_range(2):
                ok = (triangles > triangle) & (place + triangle < room)
                for corner in tl.static_range(3):
                    local = tl.load(table_16x2x3 + code * 6 + triangle * 3 + corner, mask=ok, other=0)
                    edge = tl.load(tet_edges_T6 + tet * 6 + local.to(tl.int32), mask=ok, other=0)
                    vertex = tl.load(vertex_of_E + edge.to(tl.int32), mask=ok, other=0)
                    tl.store(faces_F3 + (place + triangle) * 3 + corner, vertex, mask=ok)


@dataclass(frozen=True)
class TetTables:
    """A grid's fixed tables, contiguous: grid_N3 float32, the others int64.

    table_16x2x3: `triangle_table`'s edges.
    """

    grid_N3: Tensor
    edges_E2: Tensor
    tets_T4: Tensor
    tet_edges_T6: Tensor
    table_16x2x3: Tensor


@dataclass(frozen=True)
class SurfaceCounts:
    """What stands where, on the device.

    bits_WN: sides of the grid vertices. through_R: int32, vertices up to and including each run of edges, then all
    vertices and the faces up to and including each run of tetrahedra. edge_runs, tet_runs: per shape.
    """

    bits_WN: Tensor
    through_R: Tensor
    edge_runs: int
    tet_runs: int

    def send_sizes(self, batch: int) -> SentSizes:
        """The sizes of all shapes on their way to the host."""
        edges_BR, tets_BR = (
            part.view(batch, -1)
            for part in self.through_R.split([batch * self.edge_runs, batch * self.tet_runs])
        )
        through_2B = torch.stack([edges_BR[:, -1], tets_BR[:, -1]])
        first_vertex_B = F.pad(through_2B[0, :-1], (1, 0))
        if not through_2B.is_cuda:
            return SentSizes(through_2B, None, first_vertex_B)
        there_2B = torch.empty(2, batch, dtype=torch.int32, pin_memory=True)
        there_2B.copy_(through_2B, non_blocking=True)
        return SentSizes(there_2B, torch.cuda.current_stream().record_event(), first_vertex_B)


@dataclass(frozen=True)
class SentSizes:
    """through_2B: vertices up to and including each shape, and all vertices and the faces up to and including it; on
    the host once `arrival` has happened. first_vertex_B: on the device."""

    through_2B: Tensor
    arrival: torch.cuda.Event | None
    first_vertex_B: Tensor

    def ranges(self) -> tuple[Tensor, int, int]:
        """((2, B, 2) int32, first and count of each shape's vertices and faces; all vertices; all faces).

        The one wait for the device. In Python's integers, because the device waits for what follows.
        """
        if self.arrival is not None:
            self.arrival.synchronize()
        vertices, faces = self.through_2B.tolist()
        total = vertices[-1]
        vertices, faces = [0, *vertices], [0, *(face - total for face in faces)]
        ranges = [[[low, high - low] for low, high in pairwise(ends)] for ends in (vertices, faces)]
        return torch.tensor(ranges, dtype=torch.int32), total, faces[-1]


@dataclass
class Room:
    """held: how many vertices and faces of a batch there is room for; grows to what surfaces need.

    Always replaced as a whole: threads may share it.
    """

    held: tuple[int, int] = (0, 0)

    def grow(self, needed: tuple[int, int]) -> tuple[int, int]:
        held = tuple(
            max(old, cdiv(int(new * SLACK) + 1, ROUND_UP) * ROUND_UP)
            for old, new in zip(self.held, needed, strict=True)
        )
        self.held = held
        return held


def count_surface(sdf_BN: Tensor, tables: TetTables) -> SurfaceCounts:
    """Classifies all edges and tetrahedra of all shapes. sdf_BN: float32, contiguous."""
    batch, num = sdf_BN.shape
    num_edges, num_tets = len(tables.edges_E2), len(tables.tets_T4)
    edge_runs, tet_runs = cdiv(num_edges, RUN), cdiv(num_tets, RUN)
    bits = sign_bits(sdf_BN)[0]
    counts_R = torch.empty(batch * (edge_runs + tet_runs), device=sdf_BN.device, dtype=torch.int32)
    _count_edges_kernel[(edge_runs, len(bits))](
        bits, tables.edges_E2, counts_R, batch, num, num_edges, edge_runs, RUN_=RUN
    )
    _count_faces_kernel[(tet_runs, len(bits))](
        bits, tables.tets_T4, counts_R, batch * edge_runs, batch, num, num_tets, tet_runs, RUN_=RUN
    )
    return SurfaceCounts(bits, counts_R.cumsum(0, dtype=torch.int32), edge_runs, tet_runs)


@dataclass(frozen=True)
class WrittenSurfaces:
    """As long as there is room; int32 but the vertices. ends_V2: the grid vertices of a vertex' edge, b * N + n."""

    vertices_V3: Tensor
    ends_V2: Tensor
    faces_F3: Tensor


def write_surfaces(
    sdf_BN: Tensor, deform_BN3: Tensor, tables: TetTables, counts: SurfaceCounts, room: tuple[int, int]
) -> WrittenSurfaces:
    """As many vertices and faces as there is room for, grouped by shape."""
    vertices, faces = room
    batch, num = sdf_BN.shape
    num_edges, device = len(tables.edges_E2), sdf_BN.device
    words = cdiv(batch, SHAPES_PER_WORD)
    # The vertex on a crossed edge; undefined elsewhere.
    vertex_of_BE = torch.empty((batch, num_edges), device=device, dtype=torch.int32)
    ends_V2 = torch.empty((vertices, 2), device=device, dtype=torch.int32)
    vertices_V3 = torch.empty((vertices, 3), device=device, dtype=torch.float32)
    faces_F3 = torch.empty((faces, 3), device=device, dtype=torch.int32)
    _vertices_kernel[(counts.edge_runs, words)](
        sdf_BN, deform_BN3, tables.grid_N3, tables.edges_E2, counts.bits_WN, counts.through_R, vertex_of_BE,
        ends_V2, vertices_V3, batch, num, num_edges, counts.edge_runs, vertices, RUN_=RUN,
    )  # fmt: skip
    _faces_kernel[(counts.tet_runs, words)](
        counts.bits_WN, tables.tets_T4, tables.tet_edges_T6, tables.table_16x2x3, counts.through_R,
        batch * counts.edge_runs, vertex_of_BE, faces_F3, batch, num, num_edges, len(tables.tets_T4),
        counts.tet_runs, faces, RUN_=RUN,
    )  # fmt: skip
    return WrittenSurfaces(vertices_V3, ends_V2, faces_F3)


class MarchedSurfaces(Function):
    """(vertices_V3: the crossing of every crossed edge by linear interpolation; faces_F3 int32; ranges_2B2 int32 on the
    CPU: first and count of each shape's vertices and faces; first_vertex_B on the device). float32 and contiguous only."""

    @staticmethod
    def forward(
        ctx: Any, sdf_BN: Tensor, deform_BN3: Tensor, tables: TetTables, room: Room
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        counts = count_surface(sdf_BN, tables)
        sizes = counts.send_sizes(len(sdf_BN))
        held = room.held
        # Launched before the sizes are here: the device does not wait for the host, which waits for the device.
        written = write_surfaces(sdf_BN, deform_BN3, tables, counts, held) if any(held) else None
        ranges_2B2, vertices, faces = sizes.ranges()
        if written is None or vertices > held[0] or faces > held[1]:
            held = room.grow((vertices, faces))
            written = write_surfaces(sdf_BN, deform_BN3, tables, counts, held)
        ends_V2, faces_F3 = written.ends_V2[:vertices], written.faces_F3[:faces]
        ctx.save_for_backward(ends_V2, sdf_BN, deform_BN3, tables.grid_N3)
        ctx.mark_non_differentiable(faces_F3, ranges_2B2, sizes.first_vertex_B)
        ctx.set_materialize_grads(False)
        return written.vertices_V3[:vertices], faces_F3, ranges_2B2, sizes.first_vertex_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_V3: Tensor | None, *_: None):
        if grad_V3 is None:
            return None, None, None, None
        ends_V2, sdf_BN, deform_BN3, grid_N3 = ctx.saved_tensors
        grad_sdf_BN, grad_deform_BN3 = torch.zeros_like(sdf_BN), torch.zeros_like(deform_BN3)
        if len(ends_V2):
            _vertices_backward_kernel[(cdiv(len(ends_V2), BLOCK_V),)](
                grad_V3.contiguous(), ends_V2, sdf_BN, deform_BN3, grid_N3, grad_sdf_BN, grad_deform_BN3,
                len(ends_V2), sdf_BN.shape[1], BLOCK=BLOCK_V,
            )  # fmt: skip
        return grad_sdf_BN, grad_deform_BN3, None, None


def marching_tetrahedra(
    sdf_BN: Tensor, deform_BN3: Tensor, tables: TetTables, room: Room
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `MarchedSurfaces`. room: of the last surfaces on this grid; grows where it is too small."""
    return MarchedSurfaces.apply(sdf_BN.contiguous(), deform_BN3.contiguous(), tables, room)
