"""Chamfer distance against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from get3d_model.errors import InputError
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.points import surface_points
from get3d_model.types import Mesh


def brute_force(first_P3: np.ndarray, second_Q3: np.ndarray) -> float:
    difference = first_P3[:, None].astype(np.float64) - second_Q3[None].astype(np.float64)
    distance_PQ = (difference**2).sum(axis=2)
    return distance_PQ.min(axis=1).mean() + distance_PQ.min(axis=0).mean()


def mesh(creation: trimesh.Trimesh) -> Mesh:
    return Mesh(creation.vertices.astype(np.float32), creation.faces.astype(np.int32))


def clouds(count: int, points: int, seed: int) -> torch.Tensor:
    return torch.rand(count, points, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_against_brute_force() -> None:
    references_RP3, samples_SQ3 = clouds(3, 70, 0), clouds(5, 90, 1)
    told = []
    result_RS = chamfer_matrix(references_RP3, samples_SQ3, told.append)
    assert result_RS.shape == (3, 5) and sum(told) == 15
    expected = [[brute_force(r.numpy(), s.numpy()) for s in samples_SQ3] for r in references_RP3]
    np.testing.assert_allclose(result_RS, expected, rtol=1e-4)


def test_blocks_do_not_change_the_result() -> None:
    """So many points that only three samples fit into one block."""
    points = 1 << 11
    references_RP3, samples_SQ3 = clouds(1, points, 2), clouds(5, points // 2, 3)
    assert (1 << 23) // (points * points // 2) < 5
    result = chamfer_matrix(references_RP3, samples_SQ3)[0]
    alone = [float(chamfer_matrix(references_RP3, s[None])) for s in samples_SQ3]
    assert result.tolist() == pytest.approx(alone, rel=1e-5)


def test_known_distances() -> None:
    """Two points, one moved by 1 along x: squared distance 1 in each direction, for half of the points."""
    first = torch.tensor([[[0.0, 0, 0], [10.0, 0, 0]]])
    second = torch.tensor([[[0.0, 0, 0], [10.0, 1.0, 0]]])
    assert float(chamfer_matrix(first, second)) == pytest.approx(1.0)
    assert float(chamfer_matrix(first, first)) == pytest.approx(0.0, abs=1e-6)


def test_points_are_normalised_to_the_unit_box() -> None:
    box = trimesh.creation.box(extents=(1.0, 2.0, 4.0))
    points = surface_points(mesh(box), 20_000, 0)
    assert points.shape == (20_000, 3) and points.dtype == np.float32
    np.testing.assert_allclose(points.max(axis=0), [0.125, 0.25, 0.5], atol=1e-6)
    np.testing.assert_allclose(points.min(axis=0), [-0.125, -0.25, -0.5], atol=1e-6)


def test_place_and_size_do_not_matter() -> None:
    first = trimesh.creation.icosphere(subdivisions=2)
    second = first.copy()
    second.apply_scale(7.5)
    second.apply_translation([3.0, -20.0, 11.0])
    a, b = (surface_points(mesh(m), 500, 4) for m in (first, second))
    np.testing.assert_allclose(a, b, atol=1e-5)
    # Another shape is not at the same distance.
    c = surface_points(mesh(trimesh.creation.box()), 500, 4)
    near, far = (float(chamfer_matrix(torch.from_numpy(a)[None], torch.from_numpy(x)[None])) for x in (b, c))
    assert near < 1e-5 < 1e-3 < far


def test_points_depend_on_the_seed_alone() -> None:
    sphere = mesh(trimesh.creation.icosphere())
    assert np.array_equal(surface_points(sphere, 50, 1), surface_points(sphere, 50, 1))
    assert not np.array_equal(surface_points(sphere, 50, 1), surface_points(sphere, 50, 2))


def test_a_mesh_without_area_is_refused() -> None:
    for faces in (np.zeros((0, 3), np.int32), np.array([[0, 1, 1]], np.int32)):
        with pytest.raises(InputError, match="without area"):
            surface_points(Mesh(np.eye(3, dtype=np.float32), faces), 10, 0)
