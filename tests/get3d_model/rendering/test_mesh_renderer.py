"""The textured-mesh renderer: colours, orientation, coverage, filtering, light."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from get3d_model.cameras import FIELD_OF_VIEW_RAD, ORBIT_RADIUS, orbit_camera, turntable
from get3d_model.rendering import mesh_renderer
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer
from get3d_model.types import Camera, TexturedMesh

WHITE_11 = np.full((1, 1, 3), 255, np.uint8)


def renderer(resolution: int, supersample: int = 4, lighting: Lighting | None = None) -> MeshRenderer:
    return MeshRenderer(CpuRasterizer(threads=2), resolution, supersample, lighting or Lighting.unlit())


def front_camera() -> Camera:
    """On the +z axis, looking at the origin, x to the right."""
    camera = orbit_camera(torch.tensor([math.pi]), torch.tensor([math.pi / 2]))
    centre = torch.linalg.inv(camera.world2cam_B44[0].double())[:3, 3]
    torch.testing.assert_close(
        centre, torch.tensor([0, 0, ORBIT_RADIUS], dtype=torch.float64), atol=1e-5, rtol=0
    )
    return camera


def quad(half: float, texture_HW3: np.ndarray, uv_scale: float = 1.0) -> TexturedMesh:
    """In the plane z = 0, facing +z, the texture upright for someone in front of it."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    vertices_V3 = np.concatenate([corners * half, np.zeros((4, 1))], axis=1).astype(np.float32)
    uvs_V2 = ((corners + 1) / 2 * uv_scale).astype(np.float32)
    return TexturedMesh(vertices_V3, np.array([[0, 1, 2], [0, 2, 3]], np.int32), uvs_V2, texture_HW3)


def sphere(radius: float, texture_HW3: np.ndarray, subdivisions: int = 4) -> TexturedMesh:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    uvs_V2 = np.full((len(mesh.vertices), 2), 0.5, np.float32)
    return TexturedMesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), uvs_V2, texture_HW3)


def test_unlit_white_stays_white_up_to_the_soft_border() -> None:
    image = renderer(48).render(sphere(0.3, WHITE_11), turntable(3))
    alpha = image[..., 3]
    assert image.shape == (3, 48, 48, 4) and image.dtype == np.uint8
    assert (image[alpha > 0][:, :3] == 255).all()  # straight alpha: no dark fringe
    assert (image[alpha == 0] == 0).all()
    assert ((alpha > 0) & (alpha < 255)).any() and (alpha == 255).any() and (alpha == 0).any()


def test_silhouette_area_of_a_sphere() -> None:
    size, radius = 64, 0.4
    alpha = renderer(size).render(sphere(radius, WHITE_11, 5), turntable(2))[..., 3].astype(np.float64) / 255
    # The cone that touches the sphere: image radius = tan(asin(r / d)) * focal length in pixels.
    focal = size / 2 / math.tan(FIELD_OF_VIEW_RAD / 2)
    analytic = math.pi * (math.tan(math.asin(radius / ORBIT_RADIUS)) * focal) ** 2
    np.testing.assert_allclose(alpha.sum((1, 2)), analytic, rtol=4e-3)


def test_texture_is_upright_and_not_mirrored() -> None:
    texture_HW3 = np.zeros((64, 64, 3), np.uint8)
    red, green, blue, grey = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
    texture_HW3[:32, :32], texture_HW3[:32, 32:] = red, green  # top left, top right as one looks at the file
    texture_HW3[32:, :32], texture_HW3[32:, 32:] = blue, grey
    image = renderer(32).render(quad(0.3, texture_HW3), front_camera())[0]
    for (row, column), colour in {(10, 10): red, (10, 21): green, (21, 10): blue, (21, 21): grey}.items():
        assert tuple(image[row, column]) == (*colour, 255)


def test_coordinates_beyond_the_texture_repeat() -> None:
    rng = np.random.default_rng(0)
    texture_HW3 = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    tiled = renderer(40).render(quad(0.5, texture_HW3, uv_scale=3.0), front_camera())
    expanded = renderer(40).render(quad(0.5, np.tile(texture_HW3, (3, 3, 1))), front_camera())
    shifted = quad(0.5, texture_HW3, uv_scale=3.0)
    shifted = TexturedMesh(shifted.vertices_V3, shifted.faces_F3, shifted.uvs_V2 - 7, texture_HW3)
    # The last bits of the coordinates differ.
    assert np.abs(tiled.astype(int) - expanded).max() <= 1
    assert np.abs(tiled.astype(int) - renderer(40).render(shifted, front_camera())).max() <= 1


@pytest.mark.parametrize(("cell", "spread"), [(8, 0.45), (8, 0.0), (1, 0.0)])
def test_palette_cells_keep_their_exact_colours(cell: int, spread: float) -> None:
    """Small faces, cells of one colour: mip levels would mix the cells. Spread 0: faces without uv area."""
    rng = np.random.default_rng(1)
    palette_HW3 = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    texture_HW3 = palette_HW3.repeat(cell, 0).repeat(cell, 1)
    for row, column in ((0, 0), (3, 5), (7, 7)):
        mesh = sphere(0.4, texture_HW3)
        # Up to half a texel from the border of a cell, where bilinear lookups are still pure.
        reach = min(spread, 0.5 - 0.5 / cell) if cell > 1 else 0.0
        offset_V2 = rng.uniform(-reach, reach, (len(mesh.vertices_V3), 2))
        centre_2 = np.array([column + 0.5, 8 - row - 0.5])
        mesh = TexturedMesh(
            mesh.vertices_V3, mesh.faces_F3, ((centre_2 + offset_V2) / 8).astype(np.float32), texture_HW3
        )
        image = renderer(16, 2).render(mesh, turntable(2))
        assert (image[image[..., 3] > 0][:, :3] == palette_HW3[row, column]).all()


def test_small_faces_do_not_mix_in_what_lies_outside_of_their_cell() -> None:
    """Two tones in a cell of 16 texels, white around it; faces of about 8 texels are far below a pixel."""
    texture_HW3 = np.full((64, 64, 3), 255, np.uint8)
    texture_HW3[16:32, 32:48] = 40 + 8 * (np.indices((16, 16)).sum(0) % 2)[..., None]
    mesh = sphere(0.4, texture_HW3, 5)
    offset_V2 = np.random.default_rng(4).uniform(-4, 4, (len(mesh.vertices_V3), 2))
    uvs_V2 = (np.array([40, 64 - 24]) + offset_V2) / 64
    mesh = TexturedMesh(mesh.vertices_V3, mesh.faces_F3, uvs_V2.astype(np.float32), texture_HW3)
    image = renderer(8, 1).render(mesh, turntable(4))
    assert image[image[..., 3] > 0][:, :3].max() <= 50


def test_a_texture_far_finer_than_the_pixels_becomes_its_mean_in_linear_light() -> None:
    checker_HW3 = (np.indices((1024, 1024)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    image = renderer(32, 2).render(quad(0.35, checker_HW3), front_camera())[0]
    inside = image[image[..., 3] == 255][:, :3].astype(float)
    # Half of white: 0.5 in linear light is 188 in sRGB.
    assert len(inside) > 300 and np.abs(inside - 188).max() <= 1


def test_fine_noise_keeps_its_mean_and_loses_its_contrast() -> None:
    noise_HW3 = (
        np.random.default_rng(2).integers(0, 2, (1024, 1024, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    )
    image = renderer(32, 1).render(quad(0.35, noise_HW3), front_camera())[0]
    inside = image[image[..., 3] == 255][:, 0].astype(float)
    linear = ((inside / 255 + 0.055) / 1.055) ** 2.4
    # A pixel sees about 1500 texels: without filtering the deviation would be 0.5.
    assert linear.mean() == pytest.approx(0.5, abs=0.01) and linear.std() < 0.06


def test_default_light_is_bright_but_never_cuts_off() -> None:
    lighting = Lighting()
    directions_N3 = trimesh.creation.icosphere(subdivisions=5).vertices
    sky, ground, key, *rest = lighting.as_array()
    light_N = ground + (sky - ground) * (0.5 + 0.5 * directions_N3[:, 1])
    light_N = light_N + key * np.clip(directions_N3 @ rest[:3], 0, None)
    light_N = light_N + rest[3] * np.clip(directions_N3 @ rest[4:], 0, None)
    assert 0.93 < light_N.max() <= 1.0
    assert light_N.min() > 0.25
    # The kernel agrees: the brightest and darkest pixel of a white sphere seen from all around.
    image = renderer(48, lighting=lighting).render(sphere(0.4, WHITE_11), turntable(8, elevation_rad=1.0))
    seen = ((image[image[..., 3] == 255][:, 0] / 255 + 0.055) / 1.055) ** 2.4
    assert seen.max() == pytest.approx(light_N.max(), abs=0.01)
    assert seen.min() >= light_N.min() - 0.01


def test_surfaces_are_lit_on_the_side_that_is_seen() -> None:
    sun = Lighting(sky=0, ground=0, key=1.0, key_direction=(0, 0, 1), fill=0)
    mesh = quad(0.3, WHITE_11)
    inside_out = TexturedMesh(mesh.vertices_V3, mesh.faces_F3[:, ::-1].copy(), mesh.uvs_V2, WHITE_11)
    lit = renderer(24, lighting=sun).render(mesh, front_camera())
    assert (lit[lit[..., 3] > 0][:, 0] == 255).all()
    np.testing.assert_array_equal(renderer(24, lighting=sun).render(inside_out, front_camera()), lit)
    behind = orbit_camera(torch.tensor([0.0]), torch.tensor([math.pi / 2]))
    dark = renderer(24, lighting=sun).render(mesh, behind)
    assert (dark[dark[..., 3] > 0][:, 0] == 0).all()


def test_strips_threads_and_batches_do_not_change_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    texture_HW3 = np.random.default_rng(3).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    mesh = sphere(0.4, texture_HW3)
    mesh = TexturedMesh(mesh.vertices_V3, mesh.faces_F3, mesh.vertices_V3[:, :2] * 3, texture_HW3)
    camera = turntable(3)
    whole = renderer(40, 3, Lighting()).render(mesh, camera)
    alone = [renderer(40, 3, Lighting()).render(mesh, camera[view : view + 1])[0] for view in range(3)]
    np.testing.assert_array_equal(np.stack(alone), whole)
    single = MeshRenderer(CpuRasterizer(threads=1), 40, 3, Lighting())
    np.testing.assert_array_equal(single.render(mesh, camera), whole)
    monkeypatch.setattr(mesh_renderer, "MAX_SAMPLES", 7 * 40 * 9)
    strips = renderer(40, 3, Lighting()).render(mesh, camera)
    # Strips move positions by a rounding; a sample on an edge may change sides.
    assert (np.abs(strips.astype(int) - whole) > 1).mean() < 1e-3


def test_an_empty_mesh_is_an_empty_picture_and_wrong_arrays_are_named() -> None:
    mesh = quad(0.3, WHITE_11)
    empty = TexturedMesh(mesh.vertices_V3, np.zeros((0, 3), np.int32), mesh.uvs_V2, WHITE_11)
    assert not renderer(8).render(empty, turntable(2)).any()
    broken = {
        "texture coordinate": TexturedMesh(mesh.vertices_V3, mesh.faces_F3, mesh.uvs_V2 * np.nan, WHITE_11),
        "texture must be": TexturedMesh(mesh.vertices_V3, mesh.faces_F3, mesh.uvs_V2, WHITE_11[0]),
        "faces refer": TexturedMesh(mesh.vertices_V3, mesh.faces_F3 + 1, mesh.uvs_V2, WHITE_11),
    }
    for message, bad in broken.items():
        with pytest.raises(ValueError, match=message):
            renderer(8).render(bad, turntable(1))
    with pytest.raises(ValueError, match="resolution and supersample"):
        renderer(8, supersample=0)
    with pytest.raises(ValueError, match=r"Lighting\.key "):
        Lighting(key=-1.0)
