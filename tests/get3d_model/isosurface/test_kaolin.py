"""Our isosurface extraction against kaolin's, on a GPU.

kaolin takes a signed distance (negative inside) and its faces look to where it is positive, in the example of
its documentation of `marching_tetrahedra`. Ours is positive inside and faces look outward.

Shape legend: B batch, N grid vertices, Q cubes, V vertices, F faces
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from get3d_model.isosurface.grid import bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from get3d_model.metrics.kaolin_backend import missing_requirement
from get3d_model.types import Mesh

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(missing_requirement() is not None, reason=f"{missing_requirement()}"),
]
DEVICE = torch.device("cuda")


def shapes(points_N3: Tensor) -> Tensor:
    """A dented torus and an ellipsoid, positive inside; BN."""
    x, y, z = points_N3.unbind(dim=1)
    torus = 0.13 - torch.hypot(torch.hypot(x, z) - 0.27, y) + 0.03 * torch.sin(11 * x + 1) * torch.cos(9 * y)
    ellipsoid = 0.31 - (points_N3 / points_N3.new_tensor([1.3, 0.8, 1.1])).norm(dim=1)
    return torch.stack([torus, ellipsoid])


def oriented_faces(faces_F3: np.ndarray) -> set[tuple[int, ...]]:
    """Each face from its lowest vertex on, orientation kept."""
    first_F1 = faces_F3.argmin(axis=1)[:, None]
    return {
        tuple(face) for face in np.take_along_axis(faces_F3, (first_F1 + np.arange(3)) % 3, axis=1).tolist()
    }


def matched(ours: Mesh, theirs_V3: Tensor) -> np.ndarray:
    """Our vertex for each of theirs; asserts that it is one to one and that they lie in the same places."""
    distance_V, index_V = cKDTree(ours.vertices_V3).query(theirs_V3.detach().cpu().numpy())
    assert distance_V.max() < 1e-6
    assert np.array_equal(np.sort(index_V), np.arange(len(ours.vertices_V3)))
    return index_V


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def test_marching_tetrahedra() -> None:
    from kaolin.ops.conversions import marching_tetrahedra

    grid = bcc_grid(24, 1.0).to(DEVICE)
    sdf_BN = shapes(grid.vertices_N3)
    deform_BN3 = 0.003 * random((2, len(grid.vertices_N3), 3), 0)
    packed = MarchingTetrahedra(grid).to(DEVICE)(sdf_BN, deform_BN3)
    vertices, faces = marching_tetrahedra(grid.vertices_N3 + deform_BN3, grid.tets_T4, sdf_BN)
    for shape in range(2):
        ours = packed.mesh(shape)
        index_V = matched(ours, vertices[shape])
        theirs_F3 = index_V[faces[shape].cpu().numpy()]
        assert len(theirs_F3) == len(ours.faces_F3) > 500
        assert oriented_faces(theirs_F3[:, [0, 2, 1]]) == oriented_faces(ours.faces_F3)


@pytest.mark.parametrize("training", [False, True])
def test_flexicubes(training: bool) -> None:
    """With the weights in the published ranges (weight_scale 0.5) and random, so that no two diagonals tie."""
    from kaolin.ops.conversions import FlexiCubes as KaolinFlexiCubes

    from get3d_model.isosurface.cube_grid import cube_grid
    from get3d_model.isosurface.flexicubes import FlexiCubes

    grid = cube_grid(14, 1.0).to(DEVICE)
    sdf_BN = shapes(grid.vertices_N3)
    deform_BN3 = 0.003 * random((2, len(grid.vertices_N3), 3), 1)
    raw_BQ21 = random((2, len(grid.cubes_Q8), 21), 2)
    packed = FlexiCubes(grid).to(DEVICE).train(training)(sdf_BN, deform_BN3, raw_BQ21).meshes
    theirs = KaolinFlexiCubes(device="cuda")
    for shape in range(2):
        ours = packed.mesh(shape)
        raw_Q21 = raw_BQ21[shape]
        vertices_V3, faces_F3, _ = theirs(
            grid.vertices_N3 + deform_BN3[shape],
            -sdf_BN[shape],
            grid.cubes_Q8,
            14,
            weight_scale=0.5,
            beta=raw_Q21[:, :12],
            alpha=raw_Q21[:, 12:20],
            gamma_f=raw_Q21[:, 20],
            training=training,
        )
        index_V = matched(ours, vertices_V3)
        assert len(ours.faces_F3) > 300
        assert oriented_faces(index_V[faces_F3.cpu().numpy()]) == oriented_faces(ours.faces_F3)
