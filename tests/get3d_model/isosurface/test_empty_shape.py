"""The empty-shape rule on grids that test all vertices and on those that do not."""

import pytest
import torch

from get3d_model.isosurface.cube_grid import cube_grid
from get3d_model.isosurface.empty_shape import repair_empty_shapes
from get3d_model.isosurface.flexicubes import FlexiCubes
from get3d_model.isosurface.grid import bcc_grid
from tests.get3d_model.isosurface.manifold import is_closed_oriented_manifold


def repaired(grid, sdf_BN):
    return repair_empty_shapes(sdf_BN, torch.zeros(*sdf_BN.shape, 3), grid)


def only_the_outermost_layer_differs(grid):
    sdf = torch.where(grid.boundary_N, -1.0, 2.0)
    return torch.stack([sdf, -sdf])


def test_a_sign_change_at_the_outermost_layer_counts_for_tetrahedra_only():
    tets, cubes = bcc_grid(6, 1.0), cube_grid(6, 1.0)
    assert repaired(tets, only_the_outermost_layer_differs(tets))[2].tolist() == [False, False]
    assert repaired(cubes, only_the_outermost_layer_differs(cubes))[2].tolist() == [True, True]


@pytest.mark.parametrize("resolution", [3, 4, 7])
def test_every_empty_shape_becomes_a_closed_one(resolution):
    grid = cube_grid(resolution, 1.0)
    num = len(grid.vertices_N3)
    sdf = torch.cat(
        [only_the_outermost_layer_differs(grid), torch.zeros(1, num), torch.ones(1, num), -torch.ones(1, num)]
    )
    sdf, deform, empty, _ = repaired(grid, sdf)
    assert empty.all()
    meshes = FlexiCubes(grid).eval()(sdf, deform, torch.zeros(5, len(grid.cubes_Q8), 21)).meshes
    for index in range(5):
        assert is_closed_oriented_manifold(meshes.mesh(index).faces_F3)


def test_any_inner_sign_change_gives_faces():
    grid = cube_grid(5, 1.0)
    generator = torch.Generator().manual_seed(1)
    inner = grid.sign_tested_N.nonzero()[:, 0]
    sdf = -torch.rand(len(inner), len(grid.vertices_N3), generator=generator) - 0.1
    sdf[torch.arange(len(inner)), inner] = 0.5
    fixed, deform, empty, _ = repaired(grid, sdf)
    assert not empty.any() and torch.equal(fixed, sdf)
    meshes = FlexiCubes(grid)(fixed, deform, torch.zeros(len(inner), len(grid.cubes_Q8), 21)).meshes
    assert (meshes.face_ranges_B2[:, 1] > 0).all()
