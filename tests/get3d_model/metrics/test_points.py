"""Points for the metrics: conventions of scale, seeds, and what is hidden inside a shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from get3d_model.errors import InputError
from get3d_model.metrics import points
from get3d_model.metrics.chamfer import chamfer_matrix
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


def chamfer(first_P3: np.ndarray, second_Q3: np.ndarray) -> float:
    return float(chamfer_matrix(torch.from_numpy(first_P3)[None], torch.from_numpy(second_Q3)[None]))


@pytest.mark.parametrize("surface", ["all", "outer"])
@pytest.mark.parametrize("normalize", ["box", "sphere"])
def test_place_size_and_what_is_hidden(normalize: str, surface: str) -> None:
    """Neither place nor size moves a point; what is hidden does, unless the outer surface is asked for."""
    hidden = trimesh.creation.box(extents=(0.9, 0.3, 1.0))
    full = trimesh.creation.capsule(height=1.0, radius=0.6)
    full.apply_translation(-full.bounds.mean(axis=0))
    shape = trimesh.util.concatenate([full, hidden])
    moved = shape.copy()
    moved.apply_scale(3.7)
    moved.apply_translation([40.0, -3.0, 0.5])
    of_shape, of_moved, of_full = (
        surface_points(mesh(m), 1500, 1, normalize, surface) for m in (shape, moved, full)
    )
    # Single points at the rim of what can be seen may fall otherwise, by rounding.
    assert (np.abs(of_shape - of_moved).max(axis=1) < 1e-4).mean() > (0.999 if surface == "all" else 0.5)
    noise = chamfer(of_full, surface_points(mesh(full), 1500, 2, normalize, surface))
    assert chamfer(of_shape, of_moved) < noise
    assert (chamfer(of_shape, of_full) > 5 * noise) == (surface == "all")


def test_turning_a_shape_turns_its_outer_points() -> None:
    """By any angle, though the directions to look from stay where they are; in the sphere, which turns with it."""
    shape = trimesh.util.concatenate(
        [trimesh.creation.capsule(height=1.2, radius=0.5), trimesh.creation.box(extents=(0.4, 0.4, 0.4))]
    )
    shape.apply_translation(-shape.bounds.mean(axis=0))
    turn_33 = trimesh.transformations.random_rotation_matrix(np.array([0.2, 0.6, 0.9]))[:3, :3]
    turned = shape.copy()
    turned.apply_transform(np.block([[turn_33, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))
    # The bounding box of the turned capsule has another middle only by rounding: it is symmetric.
    before = surface_points(mesh(shape), 2000, 0, "sphere", "outer")
    after = surface_points(mesh(turned), 2000, 3, "sphere", "outer")
    noise = chamfer(before, surface_points(mesh(shape), 2000, 1, "sphere", "outer"))
    assert chamfer(after, (before @ turn_33.T).astype(np.float32)) < 1.3 * noise
    assert chamfer(after, before) > 5 * noise


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
