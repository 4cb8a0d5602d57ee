"""The atlas: what a surface looks like must not change, whatever else is merged with it."""

import numpy as np
import pytest
from PIL import Image

from get3d_model import texture_atlas
from get3d_model.errors import InputError
from get3d_model.texture_atlas import SurfacePart, merge_parts, sample_bilinear, srgb_to_linear

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32)
FACE = np.array([[0, 1, 2]])
WHITE = (1.0, 1.0, 1.0)


def picture(seed: int, height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def part(uvs, image=None, factor=WHITE, colours=None, shift=0.0) -> SurfacePart:
    uvs_V2 = None if uvs is None else np.asarray(uvs, dtype=np.float64)
    return SurfacePart(TRIANGLE + shift, FACE, uvs_V2, image, factor, colours)


def barycentrics(seed: int, count: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(3), count)


def look(mesh, face: int, weights_N3: np.ndarray) -> np.ndarray:
    return sample_bilinear(mesh.texture_HW3, weights_N3 @ mesh.uvs_V2[mesh.faces_F3[face]].astype(np.float64))


def test_bilinear_agrees_with_pillow():
    """Independent truth: Pillow's affine resampling of the same picture with the same filter."""
    image = picture(0, 16, 16)
    random = np.random.default_rng(1)
    shift_x, shift_y = random.uniform(0, 3, 2)
    moved = Image.fromarray(image).transform(
        (8, 8), Image.Transform.AFFINE, (1, 0, shift_x, 0, 1, shift_y), Image.Resampling.BILINEAR
    )
    x, y = np.meshgrid(np.arange(8) + 0.5 + shift_x, np.arange(8) + 0.5 + shift_y)
    uvs = np.stack([x / 16, 1 - y / 16], axis=-1).reshape(-1, 2)
    ours = sample_bilinear(image, uvs).reshape(8, 8, 3)
    np.testing.assert_allclose(ours, np.asarray(moved), atol=1.01)


def test_single_texture_is_untouched():
    image, uvs = picture(1), np.array([[-1.5, 0], [3, 0.25], [0.5, 7]])
    merged = merge_parts([part(uvs, image)])
    np.testing.assert_array_equal(merged.texture_HW3, image)
    np.testing.assert_array_equal(merged.uvs_V2, uvs.astype(np.float32))


def test_pictures_keep_their_look_in_the_atlas():
    uvs = np.array([[0.1, 0.1], [0.9, 0.2], [0.3, 0.9]])
    images = [picture(seed, *size) for seed, size in enumerate([(24, 40), (64, 8), (5, 5), (128, 128)])]
    merged = merge_parts([part(uvs, image, shift=i) for i, image in enumerate(images)])
    weights = barycentrics(2)
    for face, image in enumerate(images):
        expected = sample_bilinear(image, weights @ uvs)
        np.testing.assert_allclose(look(merged, face, weights), expected, atol=0.02)
    np.testing.assert_array_equal(merged.vertices_V3[3:6], TRIANGLE + 1)


def test_edges_of_pictures_do_not_bleed():
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    corners = [[0, 0], [1, 0], [0, 1]]
    merged = merge_parts([part(corners, black), part(corners, white), part(None, factor=(0, 1, 0))])
    weights = barycentrics(3)
    assert look(merged, 0, weights).max() == 0 and look(merged, 1, weights).min() == 255
    assert np.ptp(look(merged, 2, weights), axis=0).max() == 0
    # Two mip levels down (a texel is the mean of 4 x 4), nothing has mixed either.
    height, width = merged.texture_HW3.shape[:2]
    coarse = merged.texture_HW3.reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
    flat_uv = merged.uvs_V2[merged.faces_F3[2]].astype(np.float64)
    np.testing.assert_allclose(sample_bilinear(coarse, flat_uv), [[0, 255, 0]] * 3)


def test_equal_materials_share_a_cell():
    image = picture(4, 64, 64)
    once = merge_parts([part([[0, 0], [1, 0], [0, 1]], image), part(None)])
    often = merge_parts(
        [part([[0, 0], [1, 0], [0, 1]], image.copy(), shift=i) for i in range(9)] + [part(None)]
    )
    assert once.texture_HW3.shape == often.texture_HW3.shape


def test_islands_on_other_tiles_are_moved_not_baked():
    image, uvs = picture(5, 64, 64), np.array([[0.2, 0.2], [0.8, 0.3], [0.4, 0.9]])
    merged = merge_parts([part(uvs + np.array([5, -3]), image), part(None)])
    np.testing.assert_allclose(
        look(merged, 0, barycentrics(6)), sample_bilinear(image, barycentrics(6) @ uvs), atol=0.02
    )
    assert merged.texture_HW3.size <= 80 * 88 * 3


def test_tiling_is_baked():
    image, uvs = picture(7, 16, 8), np.array([[-0.5, 0.2], [2.4, 0.3], [0.4, 3.9]])
    merged = merge_parts([part(uvs, image), part(None)])
    weights = barycentrics(8)
    np.testing.assert_allclose(look(merged, 0, weights), sample_bilinear(image, weights @ uvs), atol=0.05)


def test_extreme_tiling_is_bounded():
    merged = merge_parts([part([[0, 0], [200, 0], [0, 200]], picture(9, 256, 256)), part(None)])
    assert max(merged.texture_HW3.shape) <= texture_atlas.REPEAT_LIMIT + 32
    with pytest.raises(InputError, match="repeats 9000 times"):
        merge_parts([part([[0, 0], [9000, 0], [0, 1]], picture(9)), part(None)])


def test_too_large_an_atlas_is_reduced(monkeypatch):
    monkeypatch.setattr(texture_atlas, "ATLAS_LIMIT", 128)
    corners = np.array([[0.2, 0.2], [0.8, 0.2], [0.2, 0.8]])
    colours = [(10, 20, 30), (200, 100, 50), (90, 0, 255)]
    images = [np.full((100, 100, 3), colour, dtype=np.uint8) + np.zeros(3, np.uint8) for colour in colours]
    merged = merge_parts([part(corners, image) for image in images])
    assert max(merged.texture_HW3.shape[:2]) <= 128
    for face, colour in enumerate(colours):
        np.testing.assert_allclose(look(merged, face, barycentrics(1)), np.tile(colour, (200, 1)), atol=1e-9)


@pytest.mark.parametrize(("contrast", "tolerance"), [(0.4, 0.6), (1.0, 16.0)])
def test_gradient_vertex_colours_are_interpolated(contrast, tolerance):
    """Linear interpolation; with extreme colours the texels past the long side are clipped to [0, 1]."""
    colours = 0.5 + contrast * (np.array([[1.0, 0.2, 0.0], [0.1, 0.9, 0.3], [0.4, 0.5, 1.0]]) - 0.5)
    merged = merge_parts([part(None, colours=colours)])
    weights = barycentrics(10)
    np.testing.assert_allclose(look(merged, 0, weights), weights @ colours * 255, atol=tolerance)
    np.testing.assert_allclose(look(merged, 0, np.eye(3)), colours * 255, atol=0.51)


def test_few_vertex_colours_become_a_palette():
    faces = np.arange(300).reshape(-1, 3)
    colours = np.repeat(np.array([[1.0, 0, 0], [0, 0, 1.0]]), 3, axis=0)[np.arange(300) % 6]
    vertices = np.random.default_rng(0).random((300, 3)).astype(np.float32)
    merged = merge_parts([SurfacePart(vertices, faces, None, None, WHITE, colours)])
    assert merged.texture_HW3.shape == (8, 16, 3)
    assert look(merged, 0, np.eye(3)).tolist() == [[255, 0, 0]] * 3
    assert look(merged, 1, np.eye(3)).tolist() == [[0, 0, 255]] * 3


def test_vertex_colours_multiply_a_picture():
    gradient = np.zeros((64, 64, 3), np.uint8) + np.linspace(0, 255, 64).astype(np.uint8)[None, :, None]
    uvs = np.array([[0.1, 0.1], [0.6, 0.1], [0.1, 0.6]])
    colours = np.full((3, 3), 188 / 255)  # half the light
    merged = merge_parts([part(uvs, gradient, colours=colours)])
    weights = barycentrics(11)
    expected = srgb_to_linear(sample_bilinear(gradient, weights @ uvs) / 255) * srgb_to_linear(188 / 255)
    np.testing.assert_allclose(srgb_to_linear(look(merged, 0, weights) / 255), expected, atol=0.02)


def test_textured_part_without_uvs_is_refused():
    with pytest.raises(InputError, match="no UVs"):
        merge_parts([part(None, picture(1))])


@pytest.mark.parametrize(
    ("encoded", "linear"), [(0.0, 0.0), (0.04045, 0.0031308), (0.5, 0.21404), (0.735357, 0.5), (1.0, 1.0)]
)
def test_srgb_curve(encoded, linear):
    """Tabulated values of IEC 61966-2-1."""
    assert srgb_to_linear(np.array(encoded)) == pytest.approx(linear, abs=1e-5)
    assert texture_atlas.linear_to_srgb(np.array(linear)) == pytest.approx(encoded, abs=1e-5)
