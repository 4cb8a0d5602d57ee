"""FlexiCubes against analytic surfaces, finite differences, topology and the reference arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from get3d_model.isosurface.cube_grid import CubeGrid, cube_grid
from get3d_model.isosurface.flexicubes import FlexiCubes
from get3d_model.isosurface.grid import bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from get3d_model.losses.flexicubes import crossing_distance_deviation
from get3d_model.mesh_topology import mesh_topology
from tests.get3d_model.isosurface.manifold import (
    edge_face_counts,
    fans_per_vertex,
    is_closed_oriented_manifold,
)

REFERENCE = Path(__file__).parents[4] / "shared" / "parity" / "unified_flexicubes_small.npz"
MODES = pytest.mark.parametrize("training", [False, True], ids=["diagonal", "midpoint"])


def sphere(points, radius=0.35):
    return radius - points.norm(dim=-1)


def torus(points, major=0.3, minor=0.1):
    ring = torch.hypot(points[..., 0], points[..., 2]) - major
    return minor - torch.hypot(ring, points[..., 1])


def sphere_points(count, generator, radius=0.35):
    direction = generator.standard_normal((count, 3))
    return radius * direction / np.linalg.norm(direction, axis=1, keepdims=True)


def torus_points(count, generator, major=0.3, minor=0.1):
    u, v = generator.uniform(0, 2 * np.pi, (2, count))
    ring = major + minor * np.cos(v)
    return np.stack([ring * np.cos(u), minor * np.sin(v), ring * np.sin(u)], axis=1)


def face_points(mesh, steps=6):
    """A regular set of points on every face, corners and edges included."""
    weights = np.array(
        [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)], dtype=float
    )
    corners_F33 = mesh.vertices_V3[mesh.faces_F3].astype(np.float64)
    return np.einsum("pk,fkc->fpc", weights / steps, corners_F33).reshape(-1, 3)


def hausdorff(mesh, sdf, surface_points):
    """Both ways: the mesh's points to the surface by its exact distance, the surface's points to the mesh's."""
    points = face_points(mesh)
    to_surface = sdf(torch.from_numpy(points)).abs().max().item()
    return max(to_surface, cKDTree(points).query(surface_points)[0].max())


def signed_volume(mesh):
    a, b, c = (mesh.vertices_V3[mesh.faces_F3[:, k]].astype(np.float64) for k in range(3))
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6


def extract(extractor, sdf_BN, deform_BN3=None, raw_BQ21=None):
    deform_BN3 = torch.zeros(*sdf_BN.shape, 3) if deform_BN3 is None else deform_BN3
    raw_BQ21 = torch.zeros(len(sdf_BN), len(extractor.grid.cubes_Q8), 21) if raw_BQ21 is None else raw_BQ21
    return extractor(sdf_BN, deform_BN3, raw_BQ21)


def random_shapes(grid, batch, seed):
    """White noise inside, negative on the boundary, so that no surface leaves the grid."""
    generator = torch.Generator().manual_seed(seed)
    sdf = torch.randn(batch, len(grid.vertices_N3), generator=generator)
    sdf[:, grid.boundary_N] = -sdf[:, grid.boundary_N].abs() - 0.01
    deform = (torch.rand(*sdf.shape, 3, generator=generator) - 0.5) / (2 * grid.resolution)
    raw = 2 * torch.randn(batch, len(grid.cubes_Q8), 21, generator=generator)
    return sdf, deform, raw


@MODES
@pytest.mark.parametrize(
    ("sdf", "on_surface", "euler", "volume"),
    [
        (sphere, sphere_points, 2, 4 / 3 * np.pi * 0.35**3),
        (torus, torus_points, 0, 2 * np.pi**2 * 0.3 * 0.1**2),
    ],
    ids=["sphere", "torus"],
)
def test_analytic_surfaces(sdf, on_surface, euler, volume, training):
    extractor = FlexiCubes(cube_grid(40, 1.0)).train(training)
    mesh = extract(extractor, sdf(extractor.grid.vertices_N3)[None]).meshes.mesh(0)
    topology = mesh_topology(mesh)
    assert topology.watertight and topology.winding_consistent and topology.components == 1
    assert topology.euler_characteristic == euler
    assert is_closed_oriented_manifold(mesh.faces_F3)
    assert signed_volume(mesh) == pytest.approx(volume, rel=0.03), "positive: faces wind outward"

    tets = MarchingTetrahedra(bcc_grid(40, 1.0))
    tet_mesh = tets(sdf(tets.grid.vertices_N3)[None], torch.zeros(1, *tets.grid.vertices_N3.shape)).mesh(0)
    samples = on_surface(4000, np.random.default_rng(0))
    ours = hausdorff(mesh, sdf, samples)
    assert ours < 0.005, "a fifth of a cell"
    assert ours <= hausdorff(tet_mesh, sdf, samples)


@MODES
def test_random_sdfs_give_closed_manifolds(training):
    extractor = FlexiCubes(cube_grid(9, 1.0)).train(training)
    sdf, deform, raw = random_shapes(extractor.grid, 8, seed=3)
    surface = extractor.surface_cubes(sdf)
    joined_other_way = (surface.case_S != surface.code_S).sum()
    assert joined_other_way > 100, "the difficult case is there"
    meshes = extract(extractor, sdf, deform, raw).meshes
    for index in range(8):
        assert is_closed_oriented_manifold(meshes.mesh(index).faces_F3)
    assert torch.isfinite(meshes.vertices_V3).all()


def test_without_the_ambiguous_cases_rule_the_same_sdfs_are_not_manifold():
    extractor = FlexiCubes(cube_grid(9, 1.0)).eval()
    sdf, _, _ = random_shapes(extractor.grid, 1, seed=3)
    extractor.problem_face.fill_(-1)
    faces = extract(extractor, sdf).meshes.mesh(0).faces_F3
    assert edge_face_counts(faces).max() == 4
    assert not is_closed_oriented_manifold(faces)


@pytest.mark.parametrize("lattice", [True, False])
def test_codes_are_the_bits_of_the_corners(lattice):
    built = cube_grid(4, 1.0)
    grid = built if lattice else CubeGrid(built.vertices_N3, built.cubes_Q8, 4)
    inside = (torch.rand(2, 125, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    expected = (inside[:, grid.cubes_Q8].long() << torch.arange(8)).sum(dim=2)
    assert torch.equal(FlexiCubes(grid)._codes(inside).long(), expected)


def test_two_problem_cubes_at_their_ambiguous_face():
    """Two inside corners on a diagonal of the shared face, nothing else inside: two separate boxes."""
    sdf = -torch.ones(6, 6, 6)
    sdf[2, 2, 2] = sdf[2, 3, 3] = 1.0
    extractor = FlexiCubes(cube_grid(5, 1.0)).eval()
    surface = extractor.surface_cubes(sdf.reshape(1, -1))
    assert (surface.case_S != surface.code_S).sum() == 2
    mesh = extract(extractor, sdf.reshape(1, -1)).meshes.mesh(0)
    assert is_closed_oriented_manifold(mesh.faces_F3)
    topology = mesh_topology(mesh)
    assert topology.components == 2 and topology.euler_characteristic == 4


def test_a_surface_that_leaves_the_grid_is_open_at_its_boundary_only():
    extractor = FlexiCubes(cube_grid(8, 1.0)).eval()
    mesh = extract(extractor, 0.1 - extractor.grid.vertices_N3[None, :, 1]).meshes.mesh(0)
    assert len(mesh.faces_F3) == 2 * 7 * 7 and len(mesh.vertices_V3) == 8 * 8
    assert edge_face_counts(mesh.faces_F3).max() == 2 and fans_per_vertex(mesh.faces_F3).max() == 1
    assert np.allclose(mesh.vertices_V3[:, 1], 0.1, atol=1e-6)
    a, b, c = (mesh.vertices_V3[mesh.faces_F3[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 1] > 0).all(), "towards the negative side"


@MODES
def test_a_batch_equals_its_shapes_one_by_one(training):
    extractor = FlexiCubes(cube_grid(10, 1.0)).train(training)
    vertices = extractor.grid.vertices_N3
    sdf, deform, raw = random_shapes(extractor.grid, 5, seed=0)
    sdf[1], sdf[2], sdf[4] = sphere(vertices), -1.0, 1.0
    output = extract(extractor, sdf, deform, raw)
    packed = output.meshes
    assert len(packed) == 5
    assert packed.vertices_V3.shape[0] == int(packed.vertex_ranges_B2[:, 1].sum())
    assert packed.faces_F3.shape[0] == int(packed.face_ranges_B2[:, 1].sum())
    assert packed.face_ranges_B2[2, 1] == 0 and packed.face_ranges_B2[4, 1] == 0
    deviations = []
    for index in range(5):
        one = slice(index, index + 1)
        alone = extract(extractor, sdf[one], deform[one], raw[one])
        assert np.array_equal(packed.mesh(index).vertices_V3, alone.meshes.mesh(0).vertices_V3)
        assert np.array_equal(packed.mesh(index).faces_F3, alone.meshes.mesh(0).faces_F3)
        deviations.append(alone.deviation_D7)
    assert torch.equal(output.deviation_D7, torch.cat(deviations))


@MODES
def test_gradients_match_finite_differences(training):
    extractor = FlexiCubes(cube_grid(3, 1.0)).double().train(training)
    sdf, deform, raw = (t.double() for t in random_shapes(extractor.grid, 2, seed=5))
    # Away from zero, so that no difference changes a sign.
    sdf = torch.sign(sdf) * (sdf.abs() + 0.1)

    def energy(s, d, r):
        output = extractor(s, d, r)
        points = output.meshes.vertices_V3
        mix = torch.linspace(-1, 1, points.numel(), dtype=torch.float64).view_as(points)
        return (points * mix).sum(), crossing_distance_deviation(output.deviation_D7, output.used_D7)

    inputs = [t.requires_grad_(True) for t in (sdf, deform, raw)]
    assert torch.autograd.gradcheck(energy, inputs, eps=1e-6, atol=1e-5)
    gradients = torch.autograd.grad(sum(energy(*inputs)), inputs)
    gamma_moves = gradients[2][..., 20].abs().max() > 0
    assert gamma_moves == training, "a diagonal is a choice, a midpoint is smooth"
    assert gradients[2][..., :12].abs().max() > 0 and gradients[2][..., 12:20].abs().max() > 0


def test_midpoints_follow_gamma():
    extractor = FlexiCubes(cube_grid(6, 1.0)).double()
    sdf, deform, raw = (t.double() for t in random_shapes(extractor.grid, 2, seed=7))
    duals = extractor.eval()(sdf, deform, raw).meshes
    fine = extractor.train()(sdf, deform, raw).meshes
    surface = extractor.surface_cubes(sdf)
    gamma_S = 0.25 + 0.5 * torch.sigmoid(surface.gather(raw)[:, 20])
    gamma_D = gamma_S.repeat_interleave(extractor.patch_count[surface.case_S]).numpy()
    for index in range(2):
        first, count = duals.vertex_ranges_B2[index].tolist()
        mesh, gamma = fine.mesh(index), gamma_D[first : first + count]
        assert np.array_equal(mesh.vertices_V3[:count], duals.mesh(index).vertices_V3)
        assert len(mesh.faces_F3) == 2 * len(duals.mesh(index).faces_F3)
        for fan in mesh.faces_F3.reshape(-1, 4, 3):
            assert (fan[:, 2] == fan[0, 2]).all() and np.array_equal(fan[:, 1], np.roll(fan[:, 0], -1))
            a, b, c, d = fan[:, 0]
            ac, bd = gamma[a] * gamma[c], gamma[b] * gamma[d]
            corners = mesh.vertices_V3
            expected = (ac * (corners[a] + corners[c]) + bd * (corners[b] + corners[d])) / (2 * (ac + bd))
            assert np.allclose(corners[fan[0, 2]], expected, atol=1e-6)


def test_weights_of_the_surface_cubes_are_enough():
    extractor = FlexiCubes(cube_grid(6, 1.0)).eval()
    sdf, deform, raw = random_shapes(extractor.grid, 2, seed=9)
    surface = extractor.surface_cubes(sdf)
    mask = torch.zeros(raw.shape[:2], dtype=torch.bool)
    mask[surface.shape_S, surface.cube_S] = True
    dense = extractor(sdf, deform, torch.where(mask[..., None], raw, torch.nan)).meshes
    sparse = extractor.extract(surface, sdf, deform, raw[surface.shape_S, surface.cube_S]).meshes
    assert torch.equal(dense.vertices_V3, sparse.vertices_V3)
    assert torch.equal(dense.faces_F3, sparse.faces_F3)


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the reference arrays")
def test_reference_arrays():
    with np.load(REFERENCE) as stored:
        reference = {key: stored[key] for key in stored.files}
    verts, cubes = torch.from_numpy(reference["grid_verts"]), torch.from_numpy(reference["grid_cubes"])
    extractor = FlexiCubes(CubeGrid(verts, cubes, 8)).eval()
    built = cube_grid(8, 1.0)
    assert torch.equal(built.vertices_N3, verts) and torch.equal(built.cubes_Q8, cubes)
    output = extractor(
        torch.from_numpy(reference["sdf_centred"][..., 0]),
        torch.from_numpy(reference["deformation"]),
        torch.from_numpy(reference["flexicubes_weight"]),
    )
    row = 0
    for index in range(2):
        mesh, expected = output.meshes.mesh(index), reference[f"verts{index}"]
        assert mesh.vertices_V3.shape == expected.shape
        distance, match = cKDTree(expected).query(mesh.vertices_V3)
        assert distance.max() < 1e-6
        assert len(np.unique(match)) == len(match)
        # The reference winds towards the positive side of the SDF it was given, ours towards the negative.
        assert triangles(match[mesh.faces_F3]) == triangles(reference[f"faces{index}"][:, ::-1])

        # The reference lists the vertices of one after the other, each with its edges in our order.
        used = output.used_D7[row : row + len(match)].numpy()
        deviation = output.deviation_D7[row : row + len(match)].numpy()
        row += len(match)
        order = np.argsort(match)
        assert np.allclose(deviation[order][used[order]], reference[f"l_dev{index}"], atol=1e-6)
    assert row == len(output.used_D7)


def triangles(faces_F3):
    """Each triangle rotated so that its smallest index comes first."""
    return {min((a, b, c), (b, c, a), (c, a, b)) for a, b, c in faces_F3.tolist()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@MODES
def test_the_gpu_agrees_with_the_cpu(training):
    extractor = FlexiCubes(cube_grid(12, 1.0)).train(training)
    inputs = random_shapes(extractor.grid, 3, seed=11)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_(True) for t in inputs]
        output = extractor.to(device)(*leaves)
        loss = output.meshes.vertices_V3.square().sum() + output.deviation_D7.sum()
        results.append((output, torch.autograd.grad(loss, leaves)))
    (cpu, cpu_grads), (gpu, gpu_grads) = results
    assert torch.equal(cpu.meshes.vertex_ranges_B2, gpu.meshes.vertex_ranges_B2)
    assert torch.allclose(cpu.meshes.vertices_V3, gpu.meshes.vertices_V3.cpu(), atol=1e-5)
    # A diagonal of equal weight on either side may fall either way by rounding.
    differing = (cpu.meshes.faces_F3 != gpu.meshes.faces_F3.cpu()).any(dim=1).float().mean()
    assert differing < 1e-3
    for ours, theirs in zip(cpu_grads, gpu_grads, strict=True):
        scale = float(ours.square().mean().sqrt())
        assert torch.allclose(ours, theirs.cpu(), atol=1e-3 * scale, rtol=1e-3)
