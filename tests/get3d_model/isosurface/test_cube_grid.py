"""The regular cube grid."""

import numpy as np
import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.isosurface.cube_grid import CORNER_OFFSETS, CubeGrid, cube_grid


def test_counts_extent_and_centre():
    grid = cube_grid(6, 0.8)
    assert grid.vertices_N3.shape == (7**3, 3) and grid.cubes_Q8.shape == (6**3, 8)
    assert grid.edges_E2.shape == (3 * 6 * 7 * 7, 2)
    assert torch.allclose(grid.extent, torch.full((3,), 0.4))
    assert float(grid.vertices_N3[grid.center_index].norm()) == 0
    assert torch.equal(grid.boundary_N, ((grid.vertices_N3.abs() - 0.4).abs() < 1e-6).any(dim=1))
    assert int(grid.sign_tested_N.sum()) == 5**3
    assert not (grid.sign_tested_N & grid.boundary_N).any()


def test_cubes_and_edges_by_position():
    grid = cube_grid(5, 1.0)
    corners = grid.vertices_N3[grid.cubes_Q8]
    expected = corners[:, :1] + torch.from_numpy(CORNER_OFFSETS) / 5
    assert torch.allclose(corners, expected.float(), atol=1e-6)
    a, b = grid.edges_E2.unbind(dim=1)
    assert (a < b).all()
    keys = a * len(grid.vertices_N3) + b
    assert (keys.diff() > 0).all(), "ascending, each once"
    assert torch.allclose((grid.vertices_N3[a] - grid.vertices_N3[b]).norm(dim=1), torch.tensor(0.2))


def test_neighbours_by_position():
    grid = cube_grid(4, 1.0)
    centre = grid.vertices_N3[grid.cubes_Q8].mean(dim=1)
    for face in range(6):
        axis, side = divmod(face, 2)
        step = torch.zeros(3)
        step[axis] = (2 * side - 1) / 4
        across = grid.neighbors_Q6[:, face]
        inner = ((centre + step).abs() < 0.5).all(dim=1)
        assert torch.equal(across >= 0, inner)
        assert torch.allclose(centre[across[inner].long()], centre[inner] + step, atol=1e-6)


def test_lattice_lists_the_vertices_in_order():
    grid = cube_grid(4, 0.9)
    assert torch.allclose(torch.cartesian_prod(*grid.lattices[0]).float(), grid.vertices_N3)


def test_vertices_and_cubes_in_any_order_give_the_same_tables():
    plain, generator = cube_grid(4, 1.0), np.random.default_rng(0)
    vertex_to, cube_from = generator.permutation(125), torch.from_numpy(generator.permutation(64))
    vertices = torch.empty(125, 3)
    vertices[torch.from_numpy(vertex_to)] = plain.vertices_N3
    given = CubeGrid(vertices, torch.from_numpy(vertex_to)[plain.cubes_Q8][cube_from], 4)
    edges = torch.from_numpy(vertex_to)[plain.edges_E2].sort(dim=1).values
    assert {tuple(e) for e in edges.tolist()} == {tuple(e) for e in given.edges_E2.tolist()}
    cube_to = torch.cat([cube_from.argsort(), torch.tensor([-1])])
    assert torch.equal(given.neighbors_Q6.long(), cube_to[plain.neighbors_Q6.long()][cube_from])


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"at least 3.*not 2"):
        cube_grid(2, 1.0)
    grid = cube_grid(3, 1.0)
    with pytest.raises(InputError, match=r"x running fastest"):
        CubeGrid(grid.vertices_N3, grid.cubes_Q8.flip(1), 3)
