"""The reference arrays, where they are at hand, and the comparison itself, always."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.compare import Line, compare_case, compare_mesh, oriented_triangles, relative_error

FOLDER = Path(__file__).parents[3] / "shared" / "parity"
BUILT = [
    "cameras",
    "discriminator_small",
    "separate_dmtet",
    "unified_dmtet_full",
    "unified_dmtet_small",
    "unified_dmtet_small_n3",
    "unified_flexicubes_small",
]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference arrays are not beside this checkout")
@pytest.mark.parametrize("name", BUILT)
def test_arrays_agree(name):
    lines = list(compare_case(FOLDER, name))
    assert lines and all(line.error is not None for line in lines)
    assert not [str(line) for line in lines if line.failed]


def test_relative_error_is_over_the_rms():
    expected = np.array([3.0, -3.0, 3.0, -3.0])
    assert relative_error(expected + np.array([0, 0, 0.3, 0]), expected)[0] == pytest.approx(0.1)
    assert Line("n", "a", relative_error(expected[:2], expected)[0]).failed
    assert Line("n", "a", relative_error(np.full(4, np.nan), expected)[0]).failed


def test_orientation_counts_but_the_first_corner_does_not():
    assert oriented_triangles(np.array([[4, 2, 9]])) == oriented_triangles(np.array([[2, 9, 4]]))
    assert oriented_triangles(np.array([[4, 2, 9]])) != oriented_triangles(np.array([[4, 9, 2]]))


def test_a_permuted_mesh_agrees_and_a_flipped_face_does_not():
    verts = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    faces = np.array([[0, 1, 2], [2, 3, 4], [4, 5, 0]])
    order = np.array([3, 1, 5, 0, 2, 4])
    inverse = np.argsort(order)
    lines = compare_mesh("c", "0", verts[order], inverse[faces][[2, 0, 1]], verts, faces)
    assert [line.failed for line in lines] == [False, False]
    flipped = inverse[faces].copy()
    flipped[0] = flipped[0][::-1]
    assert [line.failed for line in compare_mesh("c", "0", verts[order], flipped, verts, faces)] == [
        False,
        True,
    ]
