"""Texels by tensor operations against the loops on the CPU: the same texels, points and bytes.

On a GPU the fused kernels do it; without one they run where the package triton is and TRITON_INTERPRET=1 is set: slow,
but the same kernels.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
import torch

from get3d_model.rendering import device_texels, texels
from get3d_model.rendering.grid_atlas import GridAtlas
from get3d_model.rendering.texture_bake import BakeJob, bake_textures, find_texels
from get3d_model.rendering.uv_atlas import UvAtlas, XatlasAtlas
from get3d_model.types import Mesh
from tests.get3d_model.rendering import atlas_shapes as shapes

CPU = torch.device("cpu")
INTERPRETED = importlib.util.find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = [
    CPU,
    pytest.param(
        torch.device("cuda", 0),
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
]
MESHES = {
    "vehicle": lambda: shapes.vehicle(24),
    "sphere": lambda: shapes.sphere(2),
    "spiral ramp": shapes.spiral_ramp,
    "crumbs": shapes.crumbs,
    "triangle": lambda: Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32)),
}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("atlas", [GridAtlas(), XatlasAtlas()], ids=["fast", "xatlas"])
@pytest.mark.parametrize("name", MESHES)
def test_texels_and_points_are_those_of_the_loops(name: str, atlas: UvAtlas, device: torch.device) -> None:
    for resolution in (64, 100, 256):
        unwrapped = atlas.unwrap(MESHES[name](), resolution)
        expected = texels.needed_texels(unwrapped, resolution)
        pixel_T, points_T3 = device_texels.needed_texels(unwrapped, resolution, device)
        np.testing.assert_array_equal(pixel_T.cpu(), expected.pixel_T)
        np.testing.assert_array_equal(points_T3.cpu(), expected.points_T3)
        color_T3 = np.random.default_rng(0).integers(0, 256, (len(pixel_T), 3)).astype(np.uint8)
        filled = device_texels.texture_of(pixel_T, torch.from_numpy(color_T3).to(device), resolution)
        np.testing.assert_array_equal(filled.cpu(), texels.texture_of(expected, color_T3, resolution))


@pytest.mark.skipif(not INTERPRETED, reason="NOT RUN: needs the package triton and TRITON_INTERPRET=1")
@pytest.mark.parametrize("name", MESHES)
def test_interpreted_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = shapes.vehicle(12) if name == "vehicle" else MESHES[name]()
    monkeypatch.setattr(device_texels, "is_fused", lambda tensor: True)
    for resolution in (64, 40):
        unwrapped = GridAtlas().unwrap(mesh, resolution)
        expected = texels.needed_texels(unwrapped, resolution)
        pixel_T, points_T3 = device_texels.needed_texels(unwrapped, resolution, CPU)
        np.testing.assert_array_equal(pixel_T, expected.pixel_T)
        np.testing.assert_array_equal(points_T3, expected.points_T3)
        color_T3 = np.random.default_rng(0).integers(0, 256, (len(pixel_T), 3)).astype(np.uint8)
        filled = device_texels.texture_of(pixel_T, torch.from_numpy(color_T3), resolution)
        np.testing.assert_array_equal(filled, texels.texture_of(expected, color_T3, resolution))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_boxes_may_come_in_many_portions(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    unwrapped = GridAtlas().unwrap(shapes.vehicle(24), 128)
    whole = device_texels.needed_texels(unwrapped, 128, device)
    monkeypatch.setattr(device_texels, "TEXELS_AT_ONCE", 500)
    for first, second in zip(whole, device_texels.needed_texels(unwrapped, 128, device), strict=True):
        assert torch.equal(first, second)


def test_degenerate_faces_and_no_faces() -> None:
    vertices_V3 = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0, 0], [0, 0, 1]], np.float32)
    faces_F3 = np.array([[0, 1, 2], [0, 3, 1], [4, 4, 4], [0, 1, 1]], np.int32)
    unwrapped = GridAtlas().unwrap(Mesh(vertices_V3, faces_F3), 64)
    expected = texels.needed_texels(unwrapped, 64)
    pixel_T, points_T3 = device_texels.needed_texels(unwrapped, 64, CPU)
    np.testing.assert_array_equal(pixel_T, expected.pixel_T)
    np.testing.assert_array_equal(points_T3, expected.points_T3)
    empty = GridAtlas().unwrap(Mesh(vertices_V3[:0], faces_F3[:0]), 64)
    pixel_T, points_T3 = device_texels.needed_texels(empty, 64, CPU)
    assert len(pixel_T) == len(points_T3) == 0
    white = device_texels.texture_of(pixel_T, torch.zeros(0, 3, dtype=torch.uint8), 64)
    assert (white == 255).all() and white.shape == (64, 64, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_bakes_the_same_texture() -> None:
    def field(points_T3: torch.Tensor) -> torch.Tensor:
        return (points_T3 * 7.0).remainder(2.0) - 1.0

    jobs = [BakeJob(make(), 256, field) for make in MESHES.values()]
    jobs.append(BakeJob(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), 64, field))
    on_host, on_device = (bake_textures(GridAtlas(), jobs, torch.device(d), 4) for d in ("cpu", "cuda"))
    for first, second in zip(on_host, on_device, strict=True):
        np.testing.assert_array_equal(first.texture_HW3, second.texture_HW3)
        np.testing.assert_array_equal(first.uvs_V2, second.uvs_V2)


def test_the_device_of_the_field_is_asked() -> None:
    unwrapped = GridAtlas().unwrap(shapes.sphere(1), 64)
    needed = find_texels(unwrapped, 64, CPU)
    np.testing.assert_array_equal(needed.points_T3, texels.needed_texels(unwrapped, 64).points_T3)
