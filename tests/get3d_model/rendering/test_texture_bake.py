"""Baked textures against the field they were baked from: at surface points, in renders, at seams, in mip-maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from get3d_model.cameras import orbit_camera
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.grid_atlas import GridAtlas
from get3d_model.rendering.texels import needed_texels, texture_of
from get3d_model.rendering.texture_bake import BakeJob, bake_textures
from get3d_model.rendering.uv_atlas import UvAtlas, XatlasAtlas
from get3d_model.types import Mesh, TexturedMesh
from tests.get3d_model.rendering import atlas_shapes as shapes

ATLASES = {"fast": GridAtlas(), "xatlas": XatlasAtlas()}
CPU = torch.device("cpu")
# Well above 35 dB, which even black seams reach, as they are thin.
SEAMLESS_DB = 45.0


def field(points_T3: torch.Tensor) -> torch.Tensor:
    """A smooth colour of the position; some ten waves across a shape."""
    frequency = torch.tensor([60.0, 45.0, 75.0], dtype=points_T3.dtype)
    return 0.9 * torch.sin(points_T3 * frequency + points_T3[..., [1, 2, 0]] * 20)


def bytes_of(points_N3: np.ndarray) -> np.ndarray:
    """The field as 0 .. 255, not rounded."""
    return (field(torch.from_numpy(points_N3)).numpy() + 1.0) * 127.5


def bake(atlas: UvAtlas, mesh: Mesh, size: int, threads: int = 1) -> TexturedMesh:
    return bake_textures(atlas, [BakeJob(mesh, size, field)], CPU, threads)[0]


@pytest.fixture(scope="module", params=ATLASES)
def baked(request: pytest.FixtureRequest) -> TexturedMesh:
    return bake(ATLASES[request.param], shapes.vehicle(40), 1024)


def test_a_texture_gives_the_field_everywhere_on_the_surface(baked: TexturedMesh) -> None:
    """Half of the points lie on edges of faces, seams among them."""
    points, uvs = shapes.surface_samples(baked.vertices_V3, baked.uvs_V2, baked.faces_F3, 200_000)
    error = np.abs(shapes.bilinear(baked.texture_HW3, uvs) - bytes_of(points))
    assert np.sqrt((error**2).mean()) < 255 * 10 ** (-40 / 20)
    assert error.max() < 16.0


def psnr_of_renders(mesh: TexturedMesh, views: int, size: int) -> float:
    """dB over the covered pixels: texture lookups against the field at the same pixels' surface points."""
    rasterizer = CpuRasterizer()
    faces_F3 = torch.from_numpy(np.ascontiguousarray(mesh.faces_F3))
    attributes = torch.from_numpy(np.concatenate([mesh.vertices_V3, mesh.uvs_V2], axis=1))
    ranges = torch.tensor([[0, len(faces_F3)]], dtype=torch.int32)
    square, count = 0.0, 0
    for view in range(views):
        angles = torch.tensor([2 * math.pi * view / views]), torch.tensor([0.4 + 0.35 * view])
        camera = orbit_camera(*angles)
        homogeneous = torch.nn.functional.pad(torch.from_numpy(mesh.vertices_V3), (0, 1), value=1.0)
        clip_V4 = (homogeneous @ camera.world2clip_B44[0].T).contiguous()
        rast = rasterizer.rasterize(clip_V4, faces_F3, ranges, (size, size))
        covered = rast[0, ..., 3] > 0
        values = rasterizer.interpolate(attributes, rast, faces_F3)[0][covered].numpy()
        error = shapes.bilinear(mesh.texture_HW3, values[:, 3:].astype(np.float64)) - bytes_of(values[:, :3])
        square, count = square + (error**2).sum(), count + error.size
    assert count > 3 * views * size * size // 20
    return 10 * math.log10(255.0**2 * count / square)


def test_no_seams_in_renders(baked: TexturedMesh) -> None:
    assert psnr_of_renders(baked, 6, 256) > SEAMLESS_DB


@pytest.mark.parametrize("shape", [shapes.sphere, shapes.torus, shapes.crumbs])
def test_no_seams_in_renders_of_other_shapes(shape) -> None:
    assert psnr_of_renders(bake(ATLASES["fast"], shape(), 1024), 4, 192) > SEAMLESS_DB


def test_the_check_sees_seams() -> None:
    """A texture whose needed texels beyond the charts' borders are black fails it."""
    mesh = bake(ATLASES["fast"], shapes.vehicle(40), 1024)
    texture = mesh.texture_HW3.copy()
    texture[shapes.coverage(mesh.uvs_V2, mesh.faces_F3, 1024)[::-1] == 0] = 0
    torn = TexturedMesh(mesh.vertices_V3, mesh.faces_F3, mesh.uvs_V2, texture)
    assert psnr_of_renders(torn, 2, 256) < SEAMLESS_DB - 5.0


def test_every_texel_that_a_lookup_reads_is_asked_for() -> None:
    unwrapped = GridAtlas().unwrap(shapes.vehicle(24), 256)
    texels = needed_texels(unwrapped, 256)
    assert (np.diff(texels.pixel_T) > 0).all()
    needed = np.zeros((256, 256), bool)
    needed.reshape(-1)[texels.pixel_T] = True
    points_HH3 = np.full((256, 256, 3), np.nan, np.float32)
    points_HH3.reshape(-1, 3)[texels.pixel_T] = texels.points_T3
    points, uvs = shapes.surface_samples(
        unwrapped.mesh.vertices_V3, unwrapped.uvs_W2, unwrapped.mesh.faces_F3, 100_000
    )
    x, y = uvs[:, 0] * 256 - 0.5, (1 - uvs[:, 1]) * 256 - 0.5
    area = np.abs(shapes.uv_areas(unwrapped.uvs_W2, unwrapped.mesh.faces_F3)).sum() * 256**2
    from_world = np.sqrt(_area(unwrapped.mesh) / area)
    for dx in (0, 1):
        for dy in (0, 1):
            row, column = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            assert needed[row, column].all()
            # And the point asked is near the one looked up: at most some texels away on a slant.
            away = np.linalg.norm(points_HH3[row, column] - points, axis=1)
            assert away.max() < 12 * from_world and np.median(away) < 1.5 * from_world


def _area(mesh: Mesh) -> float:
    a, b, c = mesh.vertices_V3[mesh.faces_F3].astype(np.float64).swapaxes(0, 1)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def test_mip_maps_hold_the_means_of_the_surface_alone() -> None:
    unwrapped = GridAtlas().unwrap(shapes.vehicle(24), 128)
    texels = needed_texels(unwrapped, 128)
    color_T3 = np.random.default_rng(0).integers(0, 256, (len(texels.pixel_T), 3)).astype(np.uint8)
    texture = texture_of(texels, color_T3, 128)
    assert np.array_equal(texture.reshape(-1, 3)[texels.pixel_T], color_T3)
    known = np.zeros(128 * 128)
    known[texels.pixel_T] = 1
    for level in (1, 2, 3):
        side = 1 << level
        blocks = (128 // side, side, 128 // side, side)
        count = known.reshape(blocks).sum(axis=(1, 3))
        weighted = texture.astype(float) * known.reshape(128, 128, 1)
        sums = weighted.reshape(*blocks, 3).sum(axis=(1, 3))
        # Where the block below has texels, all four of its quarters may not: those were filled from further up.
        quarters = known.reshape(128 // side, 2, side // 2, 128 // side, 2, side // 2).sum(axis=(2, 5))
        empty = (quarters == 0).any(axis=(1, 3)) & (count > 0)
        filled = texture.astype(float).reshape(*blocks, 3)
        missing = (known.reshape(blocks) == 0) & empty[:, None, :, None]
        assert missing.any()
        for row, column in np.argwhere(empty)[:50]:
            for i, j in np.argwhere(quarters[row, :, column] == 0):
                half = side // 2
                piece = filled[row, i * half : (i + 1) * half, column, j * half : (j + 1) * half]
                np.testing.assert_allclose(
                    piece, np.broadcast_to(sums[row, column] / count[row, column], piece.shape), atol=0.51
                )


@pytest.mark.parametrize("atlas", ATLASES)
def test_threads_do_not_matter(atlas: str) -> None:
    mesh = shapes.vehicle(24)
    first, other = (bake(ATLASES[atlas], mesh, 256, threads) for threads in (1, 4))
    assert np.array_equal(first.texture_HW3, other.texture_HW3)


def test_an_empty_mesh_is_textured_white() -> None:
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    for atlas in ATLASES.values():
        textured = bake(atlas, empty, 64)
        assert len(textured.faces_F3) == len(textured.uvs_V2) == 0
        assert (textured.texture_HW3 == 255).all() and textured.texture_HW3.shape == (64, 64, 3)


def test_a_failing_field_fails_its_caller() -> None:
    def broken(points_T3: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no field")

    jobs = [BakeJob(shapes.sphere(1), 64, color_at) for color_at in (field, broken, field)]
    with pytest.raises(RuntimeError, match="no field"):
        bake_textures(GridAtlas(), jobs, CPU, 2)
