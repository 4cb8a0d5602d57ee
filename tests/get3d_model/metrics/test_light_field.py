"""The dodecahedra: their corners, the group of their rotations, and how evenly ten of them are spread."""

from __future__ import annotations

import numpy as np

from get3d_model.metrics.light_field import alignments, axes, orientation_matrices, rotations, view_frames


def test_axes_are_the_corners_of_a_regular_dodecahedron() -> None:
    corners = np.concatenate([axes(), -axes()])
    np.testing.assert_allclose(np.linalg.norm(corners, axis=1), 1.0)
    distances = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    # Three neighbours each, at the edge length of a dodecahedron in the unit sphere.
    edge = 4 / (3**0.5 * (1 + 5**0.5))
    assert ((np.abs(distances - edge) < 1e-9).sum(axis=1) == 3).all() and distances.min() > edge - 1e-9


def test_the_sixty_rotations_form_a_group_that_carries_corners_to_corners() -> None:
    turns = rotations()
    assert turns.shape == (60, 3, 3)
    np.testing.assert_allclose(
        turns @ turns.swapaxes(1, 2), np.broadcast_to(np.eye(3), (60, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1.0)
    nearest = np.abs(np.einsum("gij,aj,bi->gab", turns, axes(), axes())).max(axis=2)
    np.testing.assert_allclose(nearest, 1.0, atol=1e-12)
    permutations = {tuple(p) for p in alignments()}
    assert len(permutations) == 60 and tuple(range(10)) in permutations
    assert all(len(set(p)) == 10 for p in permutations)
    assert all(tuple(np.argsort(p)) in permutations for p in permutations), "inverses"
    assert all(tuple(np.array(p)[list(q)]) in permutations for p in permutations for q in permutations)


def test_ten_dodecahedra_are_spread() -> None:
    matrices = orientation_matrices()
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-6)
    smallest = 180.0
    for i in range(10):
        for j in range(i):
            between = np.einsum("ki,gkl,lj->gij", matrices[j], np.eye(3)[None], matrices[i])[0]
            trace = np.einsum("gij,ji->g", rotations(), between).max()
            smallest = min(smallest, np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))
    assert 28.5 < smallest < 28.6


def test_frames_look_along_the_axes() -> None:
    frames = view_frames()
    np.testing.assert_allclose(
        frames @ frames.swapaxes(1, 2), np.broadcast_to(np.eye(3), (100, 3, 3)), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(frames), 1.0, atol=1e-6)
    np.testing.assert_allclose(frames[:10, 2], axes(), atol=1e-6)
