"""Mip pyramids against an independent area filter; shading normals against known shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh
from PIL import Image

from get3d_model.rendering.mipmap import SRGB_TO_LINEAR_256, build_mips, face_texels
from get3d_model.rendering.normals import crease_normals, merge_positions


@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 53), (1, 9), (6, 1), (1, 1), (40, 100)])
def test_levels_are_area_averages_in_linear_light(height: int, width: int) -> None:
    texture_HW3 = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mips = build_mips(texture_HW3)
    linear_HW3 = SRGB_TO_LINEAR_256[texture_HW3]
    assert tuple(mips.sizes_L3[-1][:2]) == (1, 1)
    for (rows, columns, first), (old_rows, old_columns, old_first) in zip(
        mips.sizes_L3[1:], mips.sizes_L3[:-1], strict=True
    ):
        level_HW3 = mips.texels_T3[first : first + rows * columns].reshape(rows, columns, 3)
        np.testing.assert_allclose(level_HW3.mean((0, 1)), linear_HW3.mean((0, 1)), atol=1e-5)
        if old_rows == height and old_columns == width:
            above_HW3 = linear_HW3
        else:
            above_HW3 = mips.texels_T3[old_first : old_first + old_rows * old_columns]
            above_HW3 = above_HW3.reshape(old_rows, old_columns, 3)
        for channel in range(3):
            above = Image.fromarray(np.ascontiguousarray(above_HW3[..., channel]), mode="F")
            expected = np.asarray(above.resize((int(columns), int(rows)), Image.Resampling.BOX))
            # Pillow's box filter gives whole texels to one side for odd sizes.
            if old_rows % 2 == 0 and old_columns % 2 == 0:
                np.testing.assert_allclose(level_HW3[..., channel], expected, atol=1e-5)
    assert (texture_HW3 == mips.base_HW3).all()


def test_flat_faces_are_those_whose_texels_are_all_equal() -> None:
    rng = np.random.default_rng(1)
    texture_HW3 = rng.integers(0, 2, (12, 10, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    texture_HW3[:8, :7] = 40  # a large even area in a noisy rest
    uvs_V2 = (rng.uniform(-0.5, 1.5, (400, 1, 2)) + rng.uniform(-0.2, 0.2, (400, 3, 2))).reshape(-1, 2)
    faces_F3 = np.arange(1200, dtype=np.int32).reshape(-1, 3)
    faces = face_texels(uvs_V2.astype(np.float32), faces_F3, build_mips(texture_HW3))
    for face in range(400):
        low = np.floor(faces.texels_F32[face].min(0).astype(np.float64) - 0.5).astype(int)
        high = np.floor(faces.texels_F32[face].max(0).astype(np.float64) - 0.5).astype(int) + 1
        rows, columns = np.arange(low[1], high[1] + 1) % 12, np.arange(low[0], high[0] + 1) % 10
        assert faces.flat_F[face] == (len(np.unique(texture_HW3[np.ix_(rows, columns)])) == 1)
    assert 10 < faces.flat_F.sum() < 390


def test_texel_areas_and_the_coarsest_level() -> None:
    uvs_V2 = np.array([[0, 0], [0.5, 0], [0, 0.25], [0.1, 0.1]], np.float32)
    faces_F3 = np.array([[0, 1, 2], [3, 3, 3]], np.int32)
    faces = face_texels(uvs_V2, faces_F3, build_mips(np.zeros((64, 128, 3), np.uint8)))
    # Legs of 64 and 16 texels.
    np.testing.assert_allclose(faces.area_F, [64 * 16, 0], atol=1e-9)
    half_height = 64 * 16 / math.hypot(64, 16) / 2
    np.testing.assert_allclose(faces.max_level_F, [math.log2(half_height), 0], atol=1e-5)


def test_a_box_is_flat_and_a_sphere_is_round() -> None:
    box = trimesh.creation.box()
    normals_F33 = crease_normals(box.vertices.astype(np.float32), box.faces.astype(np.int32))
    np.testing.assert_allclose(normals_F33, box.face_normals[:, None].repeat(3, axis=1), atol=1e-6)
    ball = trimesh.creation.icosphere(subdivisions=3)
    normals_F33 = crease_normals(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))
    cosine = (normals_F33 * ball.vertices[ball.faces]).sum(2)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 1.0


def test_split_vertices_and_mixed_winding_do_not_break_smoothness() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3)
    soup_V3 = ball.vertices[ball.faces].reshape(-1, 3).astype(np.float32)  # no shared vertex at all
    faces_F3 = np.arange(len(soup_V3), dtype=np.int32).reshape(-1, 3)
    faces_F3[::3] = faces_F3[::3, ::-1]
    assert merge_positions(soup_V3).max() + 1 == len(ball.vertices)
    normals_F33 = crease_normals(soup_V3, faces_F3)
    cosine = np.abs((normals_F33 * soup_V3[faces_F3]).sum(2))
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 1.0
    sign_F = np.sign((normals_F33 * soup_V3[faces_F3]).sum(2))
    assert (sign_F[::3] == -1).all() and (sign_F[1::3] == 1).all()  # each on its own winding's side


def test_the_crease_angle_decides() -> None:
    # Two squares that share an edge, one turned up by 30 degrees.
    turn = math.radians(30)
    rise, run = math.sin(turn), math.cos(turn)
    vertices_V3 = np.array(
        [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [1 + run, rise, 0], [1 + run, rise, 1]]
    )
    faces_F3 = np.array([[0, 2, 1], [1, 2, 3], [1, 3, 4], [4, 3, 5]], np.int32)
    smooth = crease_normals(vertices_V3.astype(np.float32), faces_F3, math.radians(40))
    hard = crease_normals(vertices_V3.astype(np.float32), faces_F3, math.radians(20))
    np.testing.assert_allclose(hard[0, 2], [0, 1, 0], atol=1e-6)
    # At vertex 1 the angles are 45 + 45 degrees on one side and 90 on the other: the bisector.
    np.testing.assert_allclose(smooth[0, 2], [-math.sin(turn / 2), math.cos(turn / 2), 0], atol=1e-6)
    np.testing.assert_allclose(smooth[0, 0], [0, 1, 0], atol=1e-6)
