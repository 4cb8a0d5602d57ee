"""Decimation against what a sphere is."""

from __future__ import annotations

import numpy as np
import trimesh

from get3d_model.decimation import decimated
from get3d_model.types import Mesh


def sphere() -> Mesh:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    return Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))


def test_a_sphere_stays_one() -> None:
    few = decimated(sphere(), 500)
    assert 450 <= len(few.faces_F3) <= 500
    assert few.vertices_V3.dtype == np.float32 and few.faces_F3.dtype == np.int32
    np.testing.assert_allclose(np.linalg.norm(few.vertices_V3, axis=1), 0.5, atol=0.02)
    shell = trimesh.Trimesh(few.vertices_V3, few.faces_F3, process=False)
    assert shell.is_watertight and shell.volume > 0.95 * 4 / 3 * np.pi * 0.5**3, "faces still point outwards"


def test_the_same_mesh_gives_the_same_result() -> None:
    first, second = decimated(sphere(), 300), decimated(sphere(), 300)
    np.testing.assert_array_equal(first.vertices_V3, second.vertices_V3)
    np.testing.assert_array_equal(first.faces_F3, second.faces_F3)


def test_what_is_small_enough_stays() -> None:
    mesh = sphere()
    assert decimated(mesh, len(mesh.faces_F3)) is mesh
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    assert decimated(empty, 64) is empty
