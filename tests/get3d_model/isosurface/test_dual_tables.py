"""The dual marching cubes cases: counting, and invariance under the rotations of the cube."""

import itertools

import numpy as np

from get3d_model.isosurface.dual_tables import CUBE_EDGES, case_patches, dual_tables, face_corners, quad_edges

CORNERS = np.array([[k & 1, k >> 1 & 1, k >> 2 & 1] for k in range(8)])


def rotations():
    """Corner permutations of the 24 proper rotations."""
    found = []
    for axes, signs in itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    ):
        matrix = np.zeros((3, 3), dtype=int)
        matrix[range(3), axes] = signs
        if round(np.linalg.det(matrix)) == 1:
            moved = ((2 * CORNERS - 1) @ matrix.T + 1) // 2
            found.append(moved @ [1, 2, 4])
    return found


def test_patches_share_out_the_crossed_edges():
    tables = dual_tables()
    for code in range(256):
        crossed = [e for e, (a, b) in enumerate(CUBE_EDGES) if (code >> a & 1) != (code >> b & 1)]
        count = tables.patch_count_256[code]
        sizes = tables.patch_size_256x4[code]
        listed = [tables.patch_edges_256x4x7[code, p, : sizes[p]].tolist() for p in range(count)]
        assert sorted(e for edges in listed for e in edges) == crossed
        assert (sizes[:count] >= 3).all() and (sizes[count:] == 0).all()
        for patch, edges in enumerate(listed):
            assert (tables.patch_of_edge_256x12[code, edges] == patch).all()
        assert set(np.flatnonzero(tables.patch_of_edge_256x12[code] < 0)).isdisjoint(crossed)
    assert tables.patch_count_256.max() == 4 and tables.patch_size_256x4.max() == 7, "no slot is wasted"


def test_a_rotated_case_has_the_rotated_patches():
    edge_of = {frozenset(pair): edge for edge, pair in enumerate(CUBE_EDGES)}
    face_of = {frozenset(face_corners(face)): face for face in range(6)}
    group = rotations()
    assert len(group) == 24
    for corner_to in group:
        edge_to = [edge_of[frozenset(corner_to[list(pair)].tolist())] for pair in CUBE_EDGES]
        face_to = [face_of[frozenset(corner_to[face_corners(face)].tolist())] for face in range(6)]
        for code in range(256):
            turned = sum(1 << int(corner_to[k]) for k in range(8) if code >> k & 1)
            patches, problems = case_patches(code)
            expected = {frozenset(edge_to[e] for e in patch) for patch in patches}
            turned_patches, turned_problems = case_patches(turned)
            assert {frozenset(patch) for patch in turned_patches} == expected
            assert turned_problems == [face_to[face] for face in problems]


def test_the_problem_cases_are_two_classes_and_their_complements_are_split():
    tables = dual_tables()
    problems = np.flatnonzero(tables.problem_face_256 >= 0)
    inside = [int(code).bit_count() for code in problems]
    assert sorted(inside) == [2] * 12 + [3] * 24, "two corners on a face diagonal; an edge and a third corner"
    assert (tables.patch_count_256[problems] == 1).all()
    assert (tables.patch_count_256[255 - problems] == 2).all()
    assert (tables.problem_face_256[255 - problems] == -1).all()


def test_two_diagonal_corners_inside_are_apart_or_joined_as_documented():
    inside = 1 << 0 | 1 << 3
    assert len(case_patches(inside)[0]) == 1, "inside corners are joined across their face"
    assert len(case_patches(255 - inside)[0]) == 2, "outside corners are cut off one by one"
    assert len(case_patches(1 << 0 | 1 << 7)[0]) == 2, "corners of no common face stay apart"


def test_quad_edges_are_one_grid_edge_seen_from_four_cubes_counter_clockwise():
    for axis, edges in enumerate(quad_edges()):
        b, c = (axis + 1) % 3, (axis + 2) % 3
        # Where each cube's centre lies as seen from its edge, in the plane of (b, c).
        seen = [0.5 - CORNERS[list(CUBE_EDGES[edge])].mean(axis=0)[[b, c]] for edge in edges]
        angles = np.unwrap([np.arctan2(y, x) for x, y in seen])
        assert np.allclose(np.diff(angles), np.pi / 2)
        assert all(np.ptp(CORNERS[list(CUBE_EDGES[edge])][:, axis]) == 1 for edge in edges)
