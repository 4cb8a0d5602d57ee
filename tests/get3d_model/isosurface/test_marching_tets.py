"""Marching tetrahedra against analytic surfaces."""

import numpy as np
import pytest
import torch

from get3d_model.isosurface.empty_shape import repair_empty_shapes
from get3d_model.isosurface.grid import bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from get3d_model.mesh_topology import mesh_topology


@pytest.fixture(scope="module")
def extractor():
    return MarchingTetrahedra(bcc_grid(40, 1.0))


def sphere(points, radius=0.35):
    return radius - points.norm(dim=-1)


def torus(points, major=0.3, minor=0.1):
    ring = torch.hypot(points[..., 0], points[..., 2]) - major
    return minor - torch.hypot(ring, points[..., 1])


def signed_volume(mesh):
    a, b, c = (mesh.vertices_V3[mesh.faces_F3[:, k]].astype(np.float64) for k in range(3))
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6


@pytest.mark.parametrize(
    ("sdf", "euler", "volume"),
    [(sphere, 2, 4 / 3 * np.pi * 0.35**3), (torus, 0, 2 * np.pi**2 * 0.3 * 0.1**2)],
    ids=["sphere", "torus"],
)
def test_analytic_surfaces(extractor, sdf, euler, volume):
    vertices = extractor.grid.vertices_N3
    packed = extractor(sdf(vertices)[None], torch.zeros(1, *vertices.shape))
    mesh = packed.mesh(0)
    topology = mesh_topology(mesh)
    assert topology.watertight and topology.winding_consistent and topology.components == 1
    assert topology.euler_characteristic == euler
    distance = sdf(torch.from_numpy(mesh.vertices_V3)).abs()
    assert distance.max() < 0.004, "linear interpolation of a distance with cells of 1/20"
    assert signed_volume(mesh) == pytest.approx(volume, rel=0.06), "positive: faces wind outward"


def test_a_batch_equals_its_shapes_one_by_one(extractor):
    vertices = extractor.grid.vertices_N3
    torch.manual_seed(0)
    sdf = torch.stack([sphere(vertices), torus(vertices), sphere(vertices) - 10.0, sphere(vertices, 0.2)])
    deform = torch.randn(4, len(vertices), 3) * 0.003
    packed = extractor(sdf, deform)
    assert len(packed) == 4
    assert packed.vertices_V3.shape[0] == int(packed.vertex_ranges_B2[:, 1].sum())
    assert packed.face_ranges_B2[2, 1] == 0, "a shape of one sign is an empty mesh"
    for index in range(4):
        alone = extractor(sdf[index : index + 1], deform[index : index + 1]).mesh(0)
        assert np.array_equal(packed.mesh(index).vertices_V3, alone.vertices_V3)
        assert np.array_equal(packed.mesh(index).faces_F3, alone.faces_F3)


def test_crossed_edges_on_the_host_are_those_of_the_tensor_operations(extractor):
    points = extractor.grid.vertices_N3
    torch.manual_seed(0)
    sdf_BN = torch.stack(
        [sphere(points), torus(points) - 10.0, torch.randn(len(points)), torus(points), sphere(points) + 10.0]
    )
    sdf_BN[0, ::7] = 0.0
    sdf_BN[3, 5] = float("nan")
    on_host, by_tensors = extractor._crossed_on_host(sdf_BN > 0), extractor._crossed(sdf_BN > 0)
    for mine, theirs in zip(on_host, by_tensors, strict=True):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    assert on_host[3][1].tolist()[1] == 0 < on_host[3][1].tolist()[2], "an empty shape among others"


def test_gradients_match_finite_differences():
    extractor = MarchingTetrahedra(bcc_grid(4, 1.0)).double()
    vertices = extractor.grid.vertices_N3.double()
    sdf = sphere(vertices)[None].clone().requires_grad_(True)
    deform = (torch.randn(1, len(vertices), 3, dtype=torch.float64) * 0.01).requires_grad_(True)

    def energy(s, d):
        points = extractor(s, d).vertices_V3
        return (points * torch.arange(points.numel()).view_as(points)).sum()

    assert torch.autograd.gradcheck(energy, (sdf, deform), eps=1e-6, atol=1e-4)


def test_empty_shapes_are_forced_detached_and_pulled_to_zero():
    grid = bcc_grid(6, 1.0)
    vertices = grid.vertices_N3
    sdf = torch.stack(
        [sphere(vertices), torch.full_like(vertices[:, 0], -2.0), torch.full_like(vertices[:, 0], 3.0)]
    )
    sdf.requires_grad_(True)
    deform = torch.zeros(3, len(vertices), 3, requires_grad=True)
    fixed, fixed_deform, empty, regulariser = repair_empty_shapes(sdf, deform, grid)
    assert empty.tolist() == [False, True, True]
    assert torch.equal(fixed[0], sdf[0])
    assert regulariser.tolist() == [0.0, 2.0, 3.0]
    packed = MarchingTetrahedra(grid)(fixed, fixed_deform)
    assert (packed.face_ranges_B2[:, 1] > 0).all(), "rendering stays defined"
    packed.vertices_V3.square().sum().backward(retain_graph=True)
    assert sdf.grad[0].abs().sum() > 0
    assert sdf.grad[1:].abs().sum() == 0
    sdf.grad = None
    regulariser.sum().backward()
    assert sdf.grad[1].mean() < 0 < sdf.grad[2].mean(), "descent pulls both towards zero"
