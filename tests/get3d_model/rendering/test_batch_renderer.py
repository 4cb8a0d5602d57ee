"""The GPU renderer: its preparation against the CPU's everywhere, its pictures where Triton runs.

On a machine without a GPU the pictures are made by Triton's interpreter, when the package triton is there and
TRITON_INTERPRET=1 is set: slow, but the same kernel.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from get3d_model.cameras import turntable
from get3d_model.rendering.batch_inputs import device_mesh, pack_records
from get3d_model.rendering.batch_renderer import BatchRenderer
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.environment import light_source
from get3d_model.rendering.mesh_renderer import MeshRenderer
from get3d_model.rendering.mipmap import build_mips, face_texels
from get3d_model.rendering.normals import crease_normals
from get3d_model.rendering.select import make_rasterizer
from get3d_model.types import TexturedMesh
from tests.get3d_model.rendering.reference import barycentrics_reference

CPU = torch.device("cpu")
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
CAN_SHADE = INTERPRETED or (HAS_TRITON and torch.cuda.is_available())


def torus(rings: int, sides: int, texture_HW3: np.ndarray, size: float = 1.0, repeat: float = 1.0):
    u, v = np.meshgrid(np.linspace(0, 1, rings + 1), np.linspace(0, 1, sides + 1), indexing="ij")
    radius = 0.28 + 0.11 * np.cos(2 * np.pi * v)
    position = np.stack(
        [radius * np.cos(2 * np.pi * u), 0.11 * np.sin(2 * np.pi * v), radius * np.sin(2 * np.pi * u)], -1
    )
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, d, c], -1), np.stack([a, c, b], -1)]).reshape(-1, 3)
    uvs = np.stack([u, v], axis=-1).reshape(-1, 2) * repeat - (repeat - 1) / 2
    return TexturedMesh(
        (position.reshape(-1, 3) * size).astype(np.float32),
        faces.astype(np.int32),
        uvs.astype(np.float32),
        texture_HW3,
    )


def soft_texture(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = np.linspace(0, 6, height)[:, None, None] * rng.uniform(0.5, 2, 3) + np.linspace(0, 5, width)[
        None, :, None
    ] * rng.uniform(0.5, 2, 3)
    return (127.5 + 127.5 * np.sin(wave)).astype(np.uint8)


MESHES = (
    torus(40, 20, soft_texture(67, 128, 0)),
    torus(24, 10, soft_texture(32, 31, 1), 0.7, 3.0),
    torus(12, 8, np.full((5, 4, 3), 90, np.uint8), 0.9, 2.0),
)


@pytest.mark.parametrize("mesh", MESHES)
def test_preparation_equals_that_of_the_cpu_renderer(mesh: TexturedMesh) -> None:
    prepared = device_mesh(mesh, CPU)
    records = prepared.records_F24.numpy()
    mips = build_mips(mesh.texture_HW3)
    expected = face_texels(mesh.uvs_V2, mesh.faces_F3, mips)
    normals = crease_normals(mesh.vertices_V3, mesh.faces_F3)
    np.testing.assert_allclose(records[:, 4:13].reshape(-1, 3, 3), normals, atol=1e-6)
    np.testing.assert_allclose(records[:, 13:19].reshape(-1, 3, 2), expected.texels_F32, atol=1e-5)
    np.testing.assert_allclose(records[:, 19], expected.area_F, rtol=1e-5)
    np.testing.assert_array_equal(records[:, 20] < 0, expected.flat_F)
    levels = np.where(expected.flat_F, -1, expected.max_level_F)
    np.testing.assert_allclose(records[:, 20], levels, atol=1e-5)
    np.testing.assert_array_equal(
        prepared.sizes_L3[1:, :2], [(height, width) for height, width, _ in mips.sizes_L3[1:]]
    )
    base = mips.base_HW3.shape[0] * mips.base_HW3.shape[1]
    np.testing.assert_allclose(prepared.texels_T4[base:, :3].float().numpy(), mips.texels_T3, atol=6e-4)


def test_equal_texels_across_the_border_and_in_one_palette_cell() -> None:
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:, 4:] = 200
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    for uvs, flat in (
        ([[0.6, 0.2], [0.9, 0.2], [0.6, 0.5]], True),
        ([[0.4, 0.2], [0.9, 0.2], [0.6, 0.5]], False),
        ([[0.75, 0.9], [0.9, 1.4], [0.8, 1.1]], True),  # across the repeat, one colour there too
        ([[0.75, 0.9], [1.4, 1.4], [0.8, 1.1]], False),
    ):
        mesh = TexturedMesh(vertices, np.array([[0, 1, 2]], np.int32), np.array(uvs, np.float32), texture)
        found = device_mesh(mesh, CPU).records_F24[0, 20] < 0
        assert bool(found) == flat
        assert face_texels(mesh.uvs_V2, mesh.faces_F3, build_mips(texture)).flat_F[0] == flat


def test_packing_numbers_records_and_texels_through() -> None:
    meshes = [device_mesh(mesh, CPU) for mesh in MESHES]
    packed = pack_records(meshes)
    assert packed.first_record == (
        0,
        len(MESHES[0].faces_F3),
        len(MESHES[0].faces_F3) + len(MESHES[1].faces_F3),
    )
    for number, mesh in enumerate(meshes):
        height, width, first = packed.sizes_ML3[number, 1].tolist()
        level = packed.texels_T4[first : first + height * width]
        own = mesh.sizes_L3[1, 2]
        assert torch.equal(level, mesh.texels_T4[own : own + height * width])
        assert packed.sizes_ML3[number, -1, 2] == len(mesh.sizes_L3) - 1


class SubpixelRasterizer(CpuRasterizer):
    """Ours with nvdiffrast's coverage: of vertices rounded to 1/16 pixel; barycentrics are those of the vertices."""

    def rasterize(self, pos_V4, faces_F3, ranges_B2, resolution):
        sixteenths_2 = torch.tensor([resolution[1], resolution[0]]) * 8
        rounded_V4 = pos_V4.clone()
        rounded_V4[:, :2] = (pos_V4[:, :2] / pos_V4[:, 3:] * sixteenths_2).round() / sixteenths_2
        rounded_V4[:, :2] *= pos_V4[:, 3:]
        rast_BHW4 = super().rasterize(rounded_V4, faces_F3, ranges_B2, resolution)
        for rast_HW4 in rast_BHW4:
            id_HW = rast_HW4[..., 3].to(torch.int32)
            rast_HW4[id_HW > 0, :2] = barycentrics_reference(pos_V4.double(), faces_F3, id_HW).float()
        return rast_BHW4


needs_triton = pytest.mark.skipif(
    not CAN_SHADE,
    reason="NOT RUN: the CUDA renderer's pictures need Triton with a GPU, or TRITON_INTERPRET=1",
)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize(
    "samples, light", [(1, "studio"), (2, "studio"), (2, "sunset"), (3, "area"), (4, "flat")]
)
def test_pictures_equal_those_of_the_cpu(samples: int, light: str) -> None:
    """Several views of several meshes in common launches, and an image in strips."""
    device = CPU if INTERPRETED else torch.device("cuda", 0)
    source, resolution = light_source(light), 40
    cameras = [turntable(3), turntable(2, start_rad=1.0), turntable(2)]
    area = (resolution * samples) ** 2
    rasterizer = make_rasterizer(device)
    renderer = BatchRenderer(rasterizer, resolution, samples, source, device, max_samples=3 * area)
    batch = list(renderer.render_batch([device_mesh(mesh, device) for mesh in MESHES], cameras))
    assert [len(part) for part in batch] == [3, 3, 1]
    found = torch.cat(batch).cpu().numpy().astype(int)
    rasterizer = (CpuRasterizer if INTERPRETED else SubpixelRasterizer)(threads=1)
    reference = MeshRenderer(rasterizer, resolution, samples, source)
    expected = np.concatenate([reference.render(*pair) for pair in zip(MESHES, cameras, strict=True)])
    difference = np.abs(found - expected.astype(int))
    print(f"mean difference {difference.mean():.4f}, pixels {(difference.max(axis=-1) > 2).mean():.5f}")
    assert difference.mean() < 0.05
    assert (difference.max(axis=-1) > 2).mean() < 0.002
    strips = replace(renderer, max_samples=area // 3).render(MESHES[0], cameras[0])
    # Strips move the vertices to other sixteenths of a pixel.
    assert np.abs(strips.astype(int) - found[:3]).mean() < (0.05 if INTERPRETED else 0.2)


@pytest.mark.gpu
@needs_triton
def test_a_mesh_without_faces_gives_empty_pictures() -> None:
    device = CPU if INTERPRETED else torch.device("cuda", 0)
    renderer = BatchRenderer(make_rasterizer(device), 16, 2, light_source("flat"), device)
    empty = replace(MESHES[2], faces_F3=np.zeros((0, 3), np.int32))
    assert not renderer.render(empty, turntable(2)).any()
