"""Binary silhouettes against the rasteriser and against arithmetic."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from get3d_model.metrics.light_field import view_frames
from get3d_model.metrics.silhouettes_gpu import RasterizedSilhouettes
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.cpu.mask import orthographic_masks, unpacked
from get3d_model.types import Mesh


def soup(seed: int, triangles: int) -> Mesh:
    """Triangles of all sizes inside the unit sphere, from far below a pixel to most of the picture."""
    random = np.random.default_rng(seed)
    centre = random.uniform(-0.4, 0.4, (triangles, 1, 3))
    size = 10.0 ** random.uniform(-3.5, -0.5, (triangles, 1, 1))
    vertices = (centre + size * random.uniform(-1, 1, (triangles, 3, 3))).reshape(-1, 3)
    return Mesh(vertices.astype(np.float32), np.arange(3 * triangles, dtype=np.int32).reshape(-1, 3))


def test_the_same_pixels_as_the_rasteriser() -> None:
    """Through the rasteriser interface, as a GPU draws them: pixel centres on an edge, to rounding, may differ."""
    drawn = RasterizedSilhouettes(CpuRasterizer(), torch.device("cpu"))
    frames = view_frames()[::9]
    for shape in (soup(0, 400), soup(1, 40)):
        ours = unpacked(orthographic_masks(shape.vertices_V3, shape.faces_F3, frames, 128, threads=2))
        theirs = unpacked(drawn(shape, frames, 128))
        assert ours.shape == (len(frames), 128, 128) and 0.001 < theirs.mean() < 0.9
        assert (ours != theirs).mean() < 2e-5


def test_a_disc_has_its_area() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=0.75)
    masks = unpacked(orthographic_masks(sphere.vertices, sphere.faces, view_frames()[:20], 256, threads=1))
    area = masks.sum(axis=(1, 2)) / 128**2
    np.testing.assert_allclose(area, np.pi * 0.75**2, rtol=3e-3)


def test_neighbours_leave_no_gap() -> None:
    """A square of 5 000 slivers that meet at odd places is one square."""
    random = np.random.default_rng(3)
    x = np.sort(np.concatenate([[-0.7, 0.7], random.uniform(-0.7, 0.7, 2500)]))
    lower, upper = (np.stack([x, np.full_like(x, y), 0 * x], axis=1) for y in (-0.7, 0.7))
    count = len(x)
    i = np.arange(count - 1)
    faces = np.concatenate(
        [np.stack([i, i + 1, count + i], 1), np.stack([i + 1, count + i + 1, count + i], 1)]
    )
    vertices = np.concatenate([lower, upper])
    mask = unpacked(orthographic_masks(vertices, faces, np.eye(3)[None], 256, threads=1))[0]
    centres = (np.arange(256) + 0.5) / 128 - 1
    inside = np.abs(centres) < 0.7
    assert np.array_equal(mask.astype(bool), inside[:, None] & inside[None])


def test_what_lies_outside_is_cut_off() -> None:
    big = np.array([[-9, -9, 0], [9, -9, 0], [0, 9, 0]], np.float32)
    masks = unpacked(orthographic_masks(big, np.array([[0, 1, 2]]), np.eye(3)[None], 64, threads=1))
    assert masks.all()
    aside = orthographic_masks(
        big + np.float32([40, 0, 0]), np.array([[0, 1, 2]]), np.eye(3)[None], 64, threads=1
    )
    assert not aside.any()
    bad = big.copy()
    bad[1] = np.nan
    assert not orthographic_masks(bad, np.array([[0, 1, 1]]), np.eye(3)[None], 64, threads=1).any()
