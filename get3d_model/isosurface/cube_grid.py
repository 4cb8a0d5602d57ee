"""Regular grids of cubes centred at the origin, for FlexiCubes.

Shape legend: N vertices, Q cubes, E edges
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from get3d_model.errors import InputError

# Corner k of a cube lies at (k & 1, k >> 1 & 1, k >> 2 & 1): the corner order of published checkpoints.
CORNER_OFFSETS = np.array([[k & 1, k >> 1 & 1, k >> 2 & 1] for k in range(8)])
# Fewer leave at most one vertex inside the outermost layer, so no surface that the sign test could see.
MIN_RESOLUTION = 3


class CubeGrid(nn.Module):
    """Vertices, cubes, and the tables derived from them once.

    resolution: cubes along one side; the spacing that bounds the deformation is 1 / resolution.
    vertices_N3: world units. cubes_Q8: corner k at (k & 1, k >> 1 & 1, k >> 2 & 1) of the cube.
    edges_E2: unique, ascending vertex indices.
    neighbors_Q6: int32, the cube across face 2 a + s (axis a, lower or upper side s), -1 outside the grid.
    lattices: the (x, y, z) coordinates where the vertices are one rectangular lattice (points run over z
        fastest); empty for vertices in another order.
    center_index: the vertex nearest to the centre. boundary_N: bool, vertices on the bounding box.
    sign_tested_N: bool, the vertices that decide whether a shape is empty: all but the outermost layer. A
        sign change among them crosses an edge that has four cubes around it, and so gives at least one face.

    Raises InputError where a cube's corners are not in the order above.
    """

    def __init__(
        self,
        vertices_N3: Tensor,
        cubes_Q8: Tensor,
        resolution: int,
        lattices: tuple[tuple[Tensor, Tensor, Tensor], ...] = (),
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.lattices = lattices
        vertices = vertices_N3.detach().cpu().double().numpy()
        cubes = cubes_Q8.detach().cpu().numpy().astype(np.int64)
        check_corner_order(vertices, cubes)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        tolerance = 1e-6 * (high - low).max()
        boundary = ((vertices - low < tolerance) | (high - vertices < tolerance)).any(axis=1)
        center = int(np.argmin(np.square(vertices - (low + high) / 2.0).sum(axis=1)))
        for name, array, dtype in (
            ("vertices_N3", vertices, torch.float32),
            ("cubes_Q8", cubes, torch.int64),
            ("edges_E2", unique_edges(cubes, len(vertices)), torch.int64),
            ("neighbors_Q6", face_neighbors(cubes, len(vertices)), torch.int32),
            ("boundary_N", boundary, torch.bool),
            ("sign_tested_N", ~boundary, torch.bool),
            ("center_index", np.asarray(center), torch.int64),
        ):
            # Rebuilt from the configuration, never part of a checkpoint.
            self.register_buffer(name, torch.as_tensor(array).to(dtype), persistent=False)

    @property
    def extent(self) -> Tensor:
        """Half the bounding box, 3 values: dividing by it brings the vertices into [-1, 1]."""
        return self.vertices_N3.abs().amax(dim=0)


def cube_grid(resolution: int, scale: float) -> CubeGrid:
    """The regular grid of resolution^3 cubes in a cube of side `scale`; vertices and cubes run over z fastest.

    Raises InputError for a resolution below 3.
    """
    if resolution < MIN_RESOLUTION:
        raise InputError(
            f"tet_res must be at least {MIN_RESOLUTION} for a FlexiCubes grid, not {resolution}: raise it"
        )
    side = resolution + 1
    axis = torch.from_numpy((np.arange(side) / resolution - 0.5) * scale)
    vertices_N3 = torch.cartesian_prod(axis, axis, axis)
    steps = np.array([side * side, side, 1])
    first_Q = np.add.outer(
        np.add.outer(np.arange(resolution) * steps[0], np.arange(resolution) * steps[1]),
        np.arange(resolution) * steps[2],
    ).reshape(-1)
    cubes_Q8 = first_Q[:, None] + CORNER_OFFSETS @ steps
    return CubeGrid(vertices_N3, torch.from_numpy(cubes_Q8), resolution, ((axis,) * 3,))


def check_corner_order(vertices_N3: np.ndarray, cubes_Q8: np.ndarray) -> None:
    """Raises InputError unless every cube's corners run over x fastest, then y, then z."""
    origin_Q3 = vertices_N3[cubes_Q8[:, 0]]
    size_Q3 = vertices_N3[cubes_Q8[:, 7]] - origin_Q3
    right = (size_Q3 > 0).all()
    for corner in range(1, 8):
        offset_Q3 = vertices_N3[cubes_Q8[:, corner]] - origin_Q3
        right = right and np.allclose(offset_Q3, size_Q3 * CORNER_OFFSETS[corner], atol=1e-3 * size_Q3.max())
    if not right:
        raise InputError("cubes_Q8: list the corners of each cube with x running fastest, then y, then z")


def unique_edges(cubes_Q8: np.ndarray, num_vertices: int) -> np.ndarray:
    """E2, each edge once, lower index first, ascending.

    A lattice vertex has at most one edge towards +x, one towards +y and one towards +z: no search is needed.
    """
    found = []
    for axis in range(3):
        beyond_N = np.full(num_vertices, -1, dtype=np.int64)
        for corner in range(8):
            if not corner >> axis & 1:
                beyond_N[cubes_Q8[:, corner]] = cubes_Q8[:, corner | 1 << axis]
        start = np.flatnonzero(beyond_N >= 0)
        found.append(np.stack([start, beyond_N[start]], axis=1))
    edges_E2 = np.sort(np.concatenate(found), axis=1)
    return edges_E2[np.argsort(edges_E2[:, 0] * num_vertices + edges_E2[:, 1])]


def face_neighbors(cubes_Q8: np.ndarray, num_vertices: int) -> np.ndarray:
    """Q6: the cube across face 2 a + s, -1 where there is none.

    The neighbour on the upper side along an axis is the cube whose corner 0 is this cube's corner one step along.
    """
    neighbors_Q6 = np.full((len(cubes_Q8), 6), -1, dtype=np.int64)
    for axis in range(3):
        for side, (mine, its) in enumerate(((0, 1 << axis), (1 << axis, 0))):
            cube_at_N = np.full(num_vertices, -1, dtype=np.int64)
            cube_at_N[cubes_Q8[:, its]] = np.arange(len(cubes_Q8))
            neighbors_Q6[:, 2 * axis + side] = cube_at_N[cubes_Q8[:, mine]]
    return neighbors_Q6
