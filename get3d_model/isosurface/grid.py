"""Tetrahedral grids on a cube centred at the origin.

Our grid is the body-centred cubic (BCC) lattice: the corners and the centres of cubic cells. Two centres that
share a cell face form, with each of that face's four edges, one tetrahedron. All interior tetrahedra are
congruent, which makes it the standard lattice for isosurfacing (Labelle & Shewchuk 2007, "Isosurface
Stuffing", section 3).

Shape legend: N vertices, T tetrahedra, E edges, R resolution, K cells along one side
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from get3d_model.errors import InputError

TET_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
# A quad of case 2-2 is split between edges (0,2)-(1,3), or (0,3)-(1,2) where it does not have the former: the
# published choice, read off the reference meshes.
QUAD_DIAGONALS = ((1, 4), (2, 3))


class TetrahedralGrid(nn.Module):
    """Vertices, tetrahedra, and the tables derived from them once.

    The tetrahedra are taken as they are: extracted faces wind outward where a tetrahedron's volume is positive,
    which `orient_tetrahedra` ensures and `bcc_grid` does.

    resolution: lattice layers along one side; the spacing that bounds the deformation is 1 / resolution.
    vertices_N3: world units. edges_E2: unique, ascending vertex indices.
    tet_edges_T6: the edge index of each tetrahedron's edges in TET_EDGES order.
    lattices: where the vertices are rectangular lattices one after the other, the (x, y, z) coordinates of
        each (points run over z fastest); empty for an arbitrary grid.
    stored: vertices and tetrahedra are part of the state dictionary, so that a grid that cannot be rebuilt from
        the configuration travels with the weights.
    center_index: the vertex nearest to the origin. boundary_N: bool, vertices on the bounding box.
    sign_tested_N: bool, the vertices that decide whether a shape is empty: all.
    """

    def __init__(
        self,
        vertices_N3: Tensor,
        tets_T4: Tensor,
        resolution: int,
        lattices: tuple[tuple[Tensor, Tensor, Tensor], ...] = (),
        stored: bool = False,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.stored = stored
        self.lattices = lattices
        vertices = vertices_N3.detach().cpu().double().numpy()
        tets = tets_T4.detach().cpu().numpy().astype(np.int64)
        edges, tet_edges = unique_edges(tets, len(vertices))
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        tolerance = 1e-6 * (high - low).max()
        boundary = ((vertices - low < tolerance) | (high - vertices < tolerance)).any(axis=1)
        center = int(np.argmin(np.square(vertices - (low + high) / 2.0).sum(axis=1)))
        for name, array, dtype in (
            ("vertices_N3", vertices, torch.float32),
            ("tets_T4", tets, torch.int64),
            ("edges_E2", edges, torch.int64),
            ("tet_edges_T6", tet_edges, torch.int64),
            ("boundary_N", boundary, torch.bool),
            ("sign_tested_N", np.ones_like(boundary), torch.bool),
            ("center_index", np.asarray(center), torch.int64),
        ):
            # What can be rebuilt is never part of a checkpoint.
            persistent = stored and name in ("vertices_N3", "tets_T4")
            self.register_buffer(name, torch.as_tensor(array).to(dtype).contiguous(), persistent=persistent)

    @property
    def extent(self) -> Tensor:
        """Half the bounding box, 3 values: dividing by it brings the vertices into [-1, 1]."""
        return self.vertices_N3.abs().amax(dim=0)


def bcc_grid(resolution: int, scale: float) -> TetrahedralGrid:
    """The BCC lattice with `resolution` layers along each side of a cube of side `scale`.

    Layers alternate between cell corners and cell centres, so there are resolution / 2 cells along a side,
    (K+1)^3 + K^3 vertices and 12 K^3 tetrahedra.

    Raises InputError for an odd or too small resolution.
    """
    if resolution < 2 or resolution % 2:
        raise InputError(f"tet_res must be an even number of at least 2, not {resolution}")
    cells = resolution // 2
    corner_index = np.arange((cells + 1) ** 3).reshape(cells + 1, cells + 1, cells + 1)
    center_index = corner_index.size + np.arange(cells**3).reshape(cells, cells, cells)
    corners = np.stack(np.meshgrid(*[np.arange(cells + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    centers = np.stack(np.meshgrid(*[np.arange(cells) + 0.5] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    vertices = (np.concatenate([corners, centers]) / cells - 0.5) * scale

    tets = []
    for axis in range(3):
        # Faces orthogonal to `axis`: corner indices of every face, then the cell centre on either side.
        corner = np.moveaxis(corner_index, axis, 0)
        center = np.moveaxis(center_index, axis, 0)
        ring = [corner[:, :-1, :-1], corner[:, 1:, :-1], corner[:, 1:, 1:], corner[:, :-1, 1:]]
        for first in range(4):
            a, b = ring[first], ring[(first + 1) % 4]
            tets.append(np.stack([center[:-1], center[1:], a[1:-1], b[1:-1]], axis=-1).reshape(-1, 4))
        # At the boundary there is a centre on one side only: its pyramid is split along one diagonal.
        for face, inner in ((0, 0), (-1, -1)):
            c, q = center[inner], [r[face] for r in ring]
            tets.append(np.stack([c, q[0], q[1], q[2]], axis=-1).reshape(-1, 4))
            tets.append(np.stack([c, q[0], q[2], q[3]], axis=-1).reshape(-1, 4))
    oriented_T4 = orient_tetrahedra(vertices, np.concatenate(tets))
    corner_axis = torch.from_numpy((np.arange(cells + 1) / cells - 0.5) * scale)
    center_axis = torch.from_numpy(((np.arange(cells) + 0.5) / cells - 0.5) * scale)
    lattices = ((corner_axis,) * 3, (center_axis,) * 3)
    return TetrahedralGrid(torch.from_numpy(vertices), torch.from_numpy(oriented_T4), resolution, lattices)


def orient_tetrahedra(vertices_N3: np.ndarray, tets_T4: np.ndarray) -> np.ndarray:
    """Swaps two vertices of every tetrahedron of negative volume, so that all have positive volume."""
    origin = vertices_N3[tets_T4[:, 0]]
    a, b, c = (vertices_N3[tets_T4[:, i]] - origin for i in (1, 2, 3))
    negative = np.einsum("ti,ti->t", a, np.cross(b, c)) < 0
    oriented = tets_T4.copy()
    oriented[negative, 2], oriented[negative, 3] = tets_T4[negative, 3], tets_T4[negative, 2]
    return oriented


def unique_edges(tets_T4: np.ndarray, num_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """(edges_E2 ascending, tet_edges_T6)."""
    pairs = np.sort(tets_T4[:, np.array(TET_EDGES)], axis=-1)
    keys = pairs[..., 0] * num_vertices + pairs[..., 1]
    unique_keys, inverse = np.unique(keys, return_inverse=True)
    edges = np.stack([unique_keys // num_vertices, unique_keys % num_vertices], axis=-1)
    return edges, inverse.reshape(keys.shape)


def triangle_table() -> tuple[np.ndarray, np.ndarray]:
    """Marching-tetrahedra cases: (count_16, edges_16x2x3) for the occupancy code sum(occupied_i << i).

    Derived, not copied: in a reference tetrahedron of positive volume every case's polygon is wound so
    that its normal points from the occupied to the empty vertices (outward).
    """
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
    edge_of = {pair: index for index, pair in enumerate(TET_EDGES)}
    count = np.zeros(16, dtype=np.int64)
    table = np.zeros((16, 2, 3), dtype=np.int64)
    for code in range(1, 15):
        inside = [i for i in range(4) if code >> i & 1]
        outside = [i for i in range(4) if not code >> i & 1]
        pairs = [tuple(sorted(p)) for p in itertools.product(inside, outside)]
        if len(pairs) == 4:
            # Quad: consecutive crossed edges share a vertex, i.e. lie on a common face.
            pairs = [pairs[0], pairs[1], pairs[3], pairs[2]]
        outward = corners[outside].mean(axis=0) - corners[inside].mean(axis=0)
        points = np.array([corners[list(p)].mean(axis=0) for p in pairs])
        if np.dot(np.cross(points[1] - points[0], points[2] - points[0]), outward) < 0:
            pairs = [pairs[0], *pairs[:0:-1]]
        ids = [edge_of[p] for p in pairs]
        count[code] = len(ids) - 2
        table[code, 0] = ids[:3]
        if len(ids) == 4:
            while (min(ids[0], ids[2]), max(ids[0], ids[2])) not in QUAD_DIAGONALS:
                ids = ids[1:] + ids[:1]
            table[code, 0] = ids[0], ids[1], ids[2]
            table[code, 1] = ids[0], ids[2], ids[3]
    return count, table
