"""Points for the metrics: conventions of scale, seeds, and what is hidden inside a shape."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from get3d_model.errors import InputError
from get3d_model.metrics import points
from get3d_model.metrics.points import normalized_mesh, surface_points
from get3d_model.types import Mesh
from tests.get3d_model.metrics.test_chamfer import mesh


def shell_around(inside: trimesh.Trimesh) -> Mesh:
    return mesh(trimesh.util.concatenate([trimesh.creation.icosphere(subdivisions=3), inside]))


def test_conventions() -> None:
    box = trimesh.creation.box(extents=(1.0, 2.0, 4.0))
    box.apply_translation([5.0, 0.0, 0.0])
    unit_box, unit_sphere, as_is = (normalized_mesh(mesh(box), n) for n in ("box", "sphere", "none"))
    np.testing.assert_allclose(np.ptp(unit_box.vertices_V3, axis=0), [0.25, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(unit_sphere.vertices_V3, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(unit_box.vertices_V3.mean(axis=0), 0.0, atol=1e-6)
    assert np.array_equal(as_is.vertices_V3, mesh(box).vertices_V3)
    moved = surface_points(mesh(box), 100, 0, normalize="none")
    assert moved[:, 0].min() >= 4.5 and moved[:, 0].max() <= 5.5
    with pytest.raises(InputError, match="normalize 'cube' is not known; choose one of box, sphere, none"):
        normalized_mesh(mesh(box), "cube")


def test_a_vertex_that_no_face_uses_changes_nothing() -> None:
    box = mesh(trimesh.creation.box())
    stray = Mesh(np.concatenate([box.vertices_V3, [[50.0, 0, 0]]]).astype(np.float32), box.faces_F3)
    assert np.array_equal(surface_points(stray, 40, 1), surface_points(box, 40, 1))


def test_the_outer_surface_leaves_the_inside_out() -> None:
    """A box of the same area order inside a closed sphere: whole-surface samples find it, outer ones do not."""
    shape = shell_around(trimesh.creation.box(extents=(0.9, 0.9, 0.9)))
    everything, outer = (surface_points(shape, 3000, 5, "none", s) for s in ("all", "outer"))
    inside_share = (np.linalg.norm(everything, axis=1) < 0.85).mean()
    assert inside_share == pytest.approx(6 * 0.81 / (6 * 0.81 + 4 * np.pi), abs=0.03)
    assert np.linalg.norm(outer, axis=1).min() > 0.98
    # Uniform over the sphere: every octant has its eighth.
    octants = np.bincount((outer > 0) @ np.array([1, 2, 4]), minlength=8) / len(outer)
    np.testing.assert_allclose(octants, 1 / 8, atol=0.025)
    assert np.array_equal(outer, surface_points(shape, 3000, 5, "none", "outer"))


def test_all_of_a_convex_shape_is_outer() -> None:
    """Nothing is lost at edges, on large faces or on faces far smaller than a pixel of the pictures."""
    fine = trimesh.creation.icosphere(subdivisions=5)
    for shape in (trimesh.creation.box(extents=(1, 0.05, 3)), fine):
        outer, everything = (surface_points(mesh(shape), 1500, 2, "box", s) for s in ("outer", "all"))
        assert np.array_equal(outer, everything) or (
            np.abs(np.sort(outer, axis=0) - np.sort(everything, axis=0)).mean() < 0.02
        )


def test_the_open_side_of_a_box_shows_its_inside() -> None:
    box = trimesh.creation.box()
    open_box = mesh(
        trimesh.Trimesh(box.vertices, box.faces[np.abs(box.face_normals[:, 1] - 1) > 1e-6], process=False)
    )
    outer = surface_points(open_box, 1000, 0, "box", "outer")
    assert len(outer) == 1000


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="surface 'inner' is not known; choose one of all, outer"):
        surface_points(mesh(trimesh.creation.box()), 10, 0, surface="inner")
    point = Mesh(np.ones((3, 3), np.float32), np.array([[0, 1, 2]], np.int32))
    with pytest.raises(InputError, match="without area: all its vertices are at one point"):
        surface_points(point, 10, 0)
    # Ten layers inside; not enough is found in one round.
    layers = trimesh.util.concatenate([trimesh.creation.icosphere(subdivisions=2, radius=0.8)] * 10)
    monkeypatch.setattr(points, "_MAX_ROUNDS", 1)
    with pytest.raises(InputError, match="can be seen from outside; sample the whole surface instead"):
        surface_points(shell_around(layers), 400, 0, surface="outer")
