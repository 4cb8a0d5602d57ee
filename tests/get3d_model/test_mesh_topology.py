"""Mesh facts against shapes whose answers are known and against trimesh."""

import numpy as np
import pytest
import trimesh

from get3d_model.errors import InputError
from get3d_model.mesh_io import (
    component_count,
    euler_characteristic,
    is_watertight,
    merge_vertices,
    mesh_topology,
    sample_surface,
)
from get3d_model.mesh_topology import is_closed
from get3d_model.types import Mesh


def from_trimesh(mesh: trimesh.Trimesh, split: bool = False) -> Mesh:
    vertices, faces = mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)
    if split:  # as along texture seams: every corner its own vertex
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(faces.size, dtype=np.int32).reshape(-1, 3)
    return Mesh(vertices, faces)


@pytest.mark.parametrize("split", [False, True])
def test_sphere_torus_and_both(split):
    ball = trimesh.creation.icosphere(subdivisions=2)
    ring = trimesh.creation.torus(1.0, 0.3, major_sections=24, minor_sections=12)
    ring.apply_translation([5, 0, 0])
    for shape, euler, parts in [(ball, 2, 1), (ring, 0, 1), (trimesh.util.concatenate([ball, ring]), 2, 2)]:
        facts = mesh_topology(from_trimesh(shape, split))
        assert facts.watertight and facts.winding_consistent
        assert (facts.euler_characteristic, facts.components) == (euler, parts)
        assert (facts.boundary_edges, facts.degenerate_faces) == (0, 0)
        assert (facts.vertices, facts.faces) == (len(shape.vertices), len(shape.faces))


def test_agrees_with_trimesh_on_damaged_meshes():
    random = np.random.default_rng(0)
    ball = trimesh.creation.icosphere(subdivisions=2)
    for removed in (1, 5, 40, 200):
        faces = np.delete(ball.faces, random.choice(len(ball.faces), removed, replace=False), axis=0)
        damaged = trimesh.Trimesh(ball.vertices, faces, process=False)
        damaged.remove_unreferenced_vertices()
        mesh = from_trimesh(damaged, split=True)
        assert is_watertight(mesh) == damaged.is_watertight
        assert euler_characteristic(mesh) == damaged.euler_number
        assert component_count(mesh) == damaged.body_count
        faces_per_edge = np.bincount(damaged.faces_unique_edges.ravel())
        assert mesh_topology(mesh).boundary_edges == (faces_per_edge == 1).sum()


def test_flipped_face_breaks_the_winding():
    ball = trimesh.creation.icosphere(subdivisions=1)
    ball.faces[3] = ball.faces[3][::-1]
    facts = mesh_topology(from_trimesh(ball))
    assert facts.watertight and not facts.winding_consistent


def test_degenerate_faces():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [-0.0, 0, 0]], dtype=np.float32)
    faces = np.array(
        [[0, 1, 2], [0, 1, 3], [0, 4, 2]], dtype=np.int32
    )  # fine; of no area; collapses on welding
    facts = mesh_topology(Mesh(vertices, faces))
    assert (facts.degenerate_faces, facts.faces, facts.vertices) == (2, 2, 4)
    assert len(merge_vertices(Mesh(vertices, faces)).faces_F3) == 2


def test_merging_keeps_the_shape():
    ball = trimesh.creation.icosphere(subdivisions=2)
    merged = merge_vertices(from_trimesh(ball, split=True))
    assert len(merged.vertices_V3) == len(ball.vertices)
    np.testing.assert_array_equal(
        merged.vertices_V3[merged.faces_F3], ball.vertices.astype(np.float32)[ball.faces]
    )


def test_empty_mesh():
    facts = mesh_topology(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)))
    assert not facts.watertight and facts.components == 0
    with pytest.raises(InputError, match="without area"):
        sample_surface(Mesh(np.zeros((3, 3), np.float32), np.zeros((1, 3), np.int32)), 10, 0)


def test_samples_are_uniform_by_area():
    """A unit square of which one half is cut into many slivers: counts follow area, not faces."""
    steps = np.linspace(0, 1, 101)
    low = np.stack([np.full(101, 0.5), steps, np.zeros(101)], axis=1)
    vertices = np.concatenate([[[0, 0, 0], [0, 1, 0]], low, low + np.array([0.5, 0, 0])]).astype(np.float32)
    faces = [[0, 2, 102], [0, 102, 1]]
    for i in range(100):
        faces += [[2 + i, 103 + i, 3 + i], [103 + i, 104 + i, 3 + i]]
    mesh = Mesh(vertices, np.array(faces, dtype=np.int32))
    points = sample_surface(mesh, 40000, seed=1)
    assert points.shape == (40000, 3) and points.dtype == np.float32
    cells = np.histogram2d(points[:, 0], points[:, 1], bins=8, range=[[0, 1], [0, 1]])[0]
    # 64 cells of 625 expected samples: chi-squared with 63 degrees of freedom stays below 120 (p = 1e-5).
    assert ((cells - 625) ** 2 / 625).sum() < 120
    assert np.abs(points[:, 2]).max() == 0


def test_samples_depend_on_the_seed_alone():
    mesh = from_trimesh(trimesh.creation.icosphere(subdivisions=1))
    np.testing.assert_array_equal(sample_surface(mesh, 100, 7), sample_surface(mesh, 100, 7))
    assert not np.array_equal(sample_surface(mesh, 100, 7), sample_surface(mesh, 100, 8))


def test_closed_by_indices_is_watertight():
    ball = from_trimesh(trimesh.creation.icosphere(subdivisions=2))
    hole = Mesh(ball.vertices_V3, ball.faces_F3[1:])
    two_holes = Mesh(ball.vertices_V3, ball.faces_F3[2:])
    twice = Mesh(ball.vertices_V3, np.concatenate([ball.faces_F3, ball.faces_F3]))
    for mesh in (ball, hole, two_holes, twice):
        assert is_closed(mesh) == is_watertight(mesh)
    assert is_closed(ball) and not is_closed(Mesh(ball.vertices_V3, ball.faces_F3[:0]))
