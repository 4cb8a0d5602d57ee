"""Silhouette antialiasing: exact coverage, areas, and gradients against geometry and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from get3d_model.cameras import orbit_camera, to_clip_space
from get3d_model.rendering.cpu import CpuRasterizer
from tests.get3d_model.rendering.reference import disc, one_range

RASTERIZER = CpuRasterizer(threads=2)


def coverage(pos: Tensor, faces: Tensor, size: int, rasterizer: CpuRasterizer = RASTERIZER) -> Tensor:
    """The antialiased silhouette, HW."""
    rast = rasterizer.rasterize(pos, faces, one_range(faces.numpy()), (size, size))
    return rasterizer.antialias((rast[..., 3:] > 0).float(), rast, pos, faces)[0, :, :, 0]


def rectangle(left: float, top: float, right: float, bottom: float, size: int) -> tuple[Tensor, Tensor]:
    """A quad with its sides given in pixels."""
    corners = torch.tensor([[left, top], [right, top], [right, bottom], [left, bottom]]) * 2 / size - 1
    pos = torch.cat([corners, torch.zeros(4, 1), torch.ones(4, 1)], dim=1)
    return pos, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)


@pytest.mark.parametrize("offset", [0.0, 0.2, 0.45, 0.7, 0.95])
def test_axis_aligned_sides_give_exact_coverage(offset: float) -> None:
    pos, faces = rectangle(3 + offset, 4.3, 10.6, 12.8 - offset, 16)
    x = torch.arange(16.0)
    across = (torch.minimum(x + 1, torch.tensor(10.6)) - torch.maximum(x, torch.tensor(3 + offset))).clamp(
        min=0
    )
    down = (torch.minimum(x + 1, torch.tensor(12.8 - offset)) - torch.maximum(x, torch.tensor(4.3))).clamp(
        min=0
    )
    mask = coverage(pos, faces, 16)
    # Corner pixels mix two silhouettes, which the method only approximates.
    torch.testing.assert_close(mask[6:11], across[None].expand(5, 16), rtol=0, atol=1e-5)
    torch.testing.assert_close(mask[:, 6:9], down[:, None].expand(16, 3), rtol=0, atol=1e-5)


def test_disc_area_and_its_derivative_by_scale_are_the_analytic_ones() -> None:
    segments, radius, size = 48, 0.7, 128
    pos_V4, faces_F3 = disc(segments, radius, (0.013, -0.021))
    faces = torch.from_numpy(faces_F3)
    scale = torch.ones((), requires_grad=True)
    center = torch.tensor([0.013, -0.021])
    xy = (torch.from_numpy(pos_V4)[:, :2] - center) * scale + center
    area = coverage(torch.cat([xy, torch.from_numpy(pos_V4)[:, 2:]], 1), faces, size).sum()
    area.backward()
    # A regular polygon of radius r in pixels: area = n / 2 sin(2 pi / n) r^2, d area / d scale = 2 area.
    analytic = segments / 2 * math.sin(2 * math.pi / segments) * (radius * size / 2) ** 2
    assert area.item() == pytest.approx(analytic, rel=2e-3)
    assert scale.grad.item() == pytest.approx(2 * analytic, rel=1e-2)


def test_moving_a_shape_does_not_change_its_area_but_moves_its_centre() -> None:
    pos_V4, faces_F3 = disc(24, 0.6)
    shift = torch.tensor([0.011, -0.017], requires_grad=True)
    pos = torch.from_numpy(pos_V4) + torch.cat([shift, torch.zeros(2)])
    mask = coverage(pos, torch.from_numpy(faces_F3), 64)
    area = mask.sum()
    (area_gradient,) = torch.autograd.grad(area, shift, retain_graph=True)
    ticks = (torch.arange(64) + 0.5) / 32 - 1
    moment_x = (mask * ticks[None, :]).sum()
    (moment_gradient,) = torch.autograd.grad(moment_x, shift)
    # One pixel pair counts 32 (pixels per NDC unit); the disc is 38 pairs wide and high.
    assert area_gradient.abs().max() < 2 * 32
    assert moment_gradient[0].item() == pytest.approx(area.item(), rel=0.02)
    assert abs(moment_gradient[1].item()) < 0.02 * area.item()


def test_subpixel_triangles_need_the_search_beyond_the_visible_triangle() -> None:
    """A sphere of 20 480 triangles at 48 x 48, 8 and more per pixel, still has a disc's derivative."""
    mesh = trimesh.creation.icosphere(subdivisions=5)
    faces = torch.tensor(mesh.faces, dtype=torch.int32)
    points = torch.tensor(mesh.vertices * 0.7, dtype=torch.float32)
    analytic = 2 * math.pi * (0.7 * 24) ** 2
    derivative = {}
    for steps in (0, 64):
        scale = torch.ones((), requires_grad=True)
        pos = torch.cat([points * scale, torch.ones(len(points), 1)], dim=1)
        coverage(pos, faces, 48, CpuRasterizer(threads=2, silhouette_steps=steps)).sum().backward()
        derivative[steps] = scale.grad.item()
    assert derivative[64] == pytest.approx(analytic, rel=0.03)
    assert derivative[0] < 0.5 * analytic


def perspective_sphere(dents: float) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.vertices += np.random.default_rng(0).normal(scale=dents, size=mesh.vertices.shape)
    camera = orbit_camera(torch.tensor([0.9]), torch.tensor([1.1]), radius=1.5)
    points = torch.tensor(mesh.vertices * 0.4, dtype=torch.float32)
    return to_clip_space(points, camera.world2clip_B44[0]), torch.tensor(mesh.faces, dtype=torch.int32)


def test_gradients_match_finite_differences() -> None:
    # Dented, because the symmetry of a sphere puts edges exactly on the kinks of the method.
    pos, faces = perspective_sphere(dents=0.03)
    generator = torch.Generator().manual_seed(0)
    rast = RASTERIZER.rasterize(pos, faces, one_range(faces.numpy()), (32, 32))
    color = torch.rand(1, 32, 32, 3, generator=generator)
    weight = torch.rand(1, 32, 32, 3, generator=generator, dtype=torch.float64)

    def loss(color: Tensor, pos: Tensor) -> Tensor:
        return (RASTERIZER.antialias(color, rast, pos, faces).double() * weight).sum()

    color_leaf, pos_leaf = color.clone().requires_grad_(), pos.clone().requires_grad_()
    loss(color_leaf, pos_leaf).backward()
    assert pos_leaf.grad.abs().max() > 0.1

    # Along random directions: the loss is smooth as long as no pixel pair changes its edge.
    for _ in range(6):
        direction = torch.randn(pos.shape, generator=generator)
        direction[:, 2] = 0
        step = 2e-5
        numeric = (loss(color, pos + step * direction) - loss(color, pos - step * direction)) / (2 * step)
        assert (pos_leaf.grad.double() * direction).sum().item() == pytest.approx(
            numeric.item(), rel=0.03, abs=0.1
        )
        change = torch.randn(color.shape, generator=generator)
        numeric = (loss(color + 0.5 * change, pos) - loss(color - 0.5 * change, pos)).item()
        assert (color_leaf.grad.double() * change).sum().item() == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_interior_edges_leave_the_image_alone() -> None:
    pos, faces = perspective_sphere(dents=0.0)
    rast = RASTERIZER.rasterize(pos, faces, one_range(faces.numpy()), (64, 64))
    color = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    out = RASTERIZER.antialias(color, rast, pos, faces)
    covered = (rast[..., 3] > 0).float()[:, None]
    # Pixels whose own and four neighbouring pixels are all inside, or all outside.
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])[None, None]
    inside = torch.nn.functional.conv2d(covered, cross, padding=1)[:, 0]
    quiet = (inside == 5) | (inside == 0)
    assert (inside == 5).sum() > 300
    assert torch.equal(out[quiet], color[quiet])
    assert not torch.equal(out[~quiet], color[~quiet])


def test_a_fold_in_front_of_its_own_mesh_is_a_silhouette() -> None:
    # One strip folded over: a front flap ends at x = 0.1 by turning back under itself, over a wide back wall.
    front = [[-0.8, -0.9, -0.5, 1], [-0.8, 0.9, -0.5, 1], [0.1, -0.9, -0.2, 1], [0.1, 0.9, -0.2, 1]]
    back = [[-0.9, -0.9, 0.2, 1], [-0.9, 0.9, 0.2, 1], [0.9, -0.9, 0.5, 1], [0.9, 0.9, 0.5, 1]]
    pos = torch.tensor(front + back)
    strip = [[0, 2, 1], [1, 2, 3], [2, 4, 3], [3, 4, 5], [4, 6, 5], [5, 6, 7]]
    faces = torch.tensor(strip, dtype=torch.int32)
    rast = RASTERIZER.rasterize(pos, faces, one_range(faces.numpy()), (16, 16))
    flap = ((rast[..., 3:] > 0) & (rast[..., 3:] <= 2)).float()
    out = RASTERIZER.antialias(flap, rast, pos, faces)[0, 8, :, 0]
    # x = 0.1 is pixel position 8.8: pixel 8 is covered by 0.8 of the flap.
    assert out[7].item() == pytest.approx(1.0) and out[9].item() == pytest.approx(0.0)
    assert out[8].item() == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("steps", [0, 64])
@pytest.mark.parametrize(
    ("drawn_to", "right", "shown"),
    [
        (7.48, 7.53, [1.0, 1.0, 0.5, 0.0]),  # pixel 7 is not drawn, though its centre lies 0.03 inside
        (7.52, 7.47, [1.0, 1.0, 0.5, 0.0]),  # drawn, 0.03 outside
        (7.48, 7.6, [1.0, 1.0, 0.0, 0.0]),  # no rounding of vertices explains 0.1
    ],
)
def test_an_edge_that_rounding_put_beyond_a_centre_is_clamped_and_still(
    steps: int, drawn_to: float, right: float, shown: list[float]
) -> None:
    """A rast buffer drawn with rounded vertices, as nvdiffrast's are, antialiased with the true ones."""
    drawn, faces = rectangle(2, 2, drawn_to, 13, 16)
    rast = RASTERIZER.rasterize(drawn, faces, one_range(faces.numpy()), (16, 16))
    pos = rectangle(2, 2, right, 13, 16)[0].requires_grad_()
    rasterizer = CpuRasterizer(threads=1, silhouette_steps=steps)
    row = rasterizer.antialias((rast[..., 3:] > 0).float(), rast, pos, faces)[0, 8, :, 0]
    torch.testing.assert_close(row[5:9], torch.tensor(shown), rtol=0, atol=1e-6)
    row[5:9].sum().backward()
    assert pos.grad.abs().max() == 0


@pytest.mark.parametrize("steps", [0, 64])
def test_a_triangle_with_a_vertex_behind_the_camera_has_no_silhouette(steps: int) -> None:
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    rasterizer = CpuRasterizer(threads=1, silhouette_steps=steps)
    changed = {}
    for w in (-0.5, 0.5):
        pos = torch.tensor([[-0.7, 0.6, 0, 1], [0.8, 0.5, 0, 1], [0.1, -0.9, w, w]]).requires_grad_()
        rast = rasterizer.rasterize(pos, faces, one_range(faces.numpy()), (16, 16))
        mask = (rast[..., 3:] > 0).float()
        assert 10 < mask.sum() < 200
        smooth = rasterizer.antialias(mask, rast.detach(), pos, faces)
        (smooth * torch.arange(16.0)[:, None]).sum().backward()
        changed[w] = ((smooth != mask).sum().item(), pos.grad.abs().max().item())
    assert changed[-0.5] == (0, 0)
    assert min(changed[0.5]) > 0
