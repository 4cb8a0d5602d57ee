"""Attribute interpolation and its gradients against float64 autograd."""

from __future__ import annotations

import numpy as np
import torch

from get3d_model.rendering.cpu import CpuRasterizer
from tests.get3d_model.rendering.reference import one_range, random_triangles

RASTERIZER = CpuRasterizer(threads=2)


def test_values_and_gradients_match_float64_autograd() -> None:
    rng = np.random.default_rng(0)
    pos_V4, faces_F3 = random_triangles(rng, 10)
    # Two triangles share vertices, so that sums over triangles are tested too.
    faces_F3[1] = faces_F3[0][[2, 0, 1]] + (3, 0, 0)
    faces = torch.from_numpy(faces_F3)
    with torch.no_grad():
        rast = RASTERIZER.rasterize(torch.from_numpy(pos_V4), faces, one_range(faces_F3), (33, 47))
    rast.requires_grad_()
    attributes = torch.from_numpy(rng.normal(size=(len(pos_V4), 5)).astype(np.float32)).requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(1, 33, 47, 5)).astype(np.float32))
    out = RASTERIZER.interpolate(attributes, rast, faces)
    (out * weight).sum().backward()

    rast64 = rast.detach().double().requires_grad_()
    attributes64 = attributes.detach().double().requires_grad_()
    covered = rast64[..., 3] > 0
    corners_P3C = attributes64[faces.long()[rast64[covered][:, 3].long() - 1]]
    u, v = rast64[covered][:, 0, None], rast64[covered][:, 1, None]
    values_PC = u * corners_P3C[:, 0] + v * corners_P3C[:, 1] + (1 - u - v) * corners_P3C[:, 2]
    (values_PC * weight[covered]).sum().backward()
    torch.testing.assert_close(out[covered].double(), values_PC, rtol=0, atol=2e-6)
    assert not out[~covered].any() and covered.any() and (~covered).any()
    torch.testing.assert_close(attributes.grad.double(), attributes64.grad, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(rast.grad.double(), rast64.grad, rtol=1e-5, atol=1e-5)


def test_perspective_is_correct_along_a_receding_strip() -> None:
    # A strip from depth 1 to depth 9: its middle in space projects to y where 1/w is interpolated linearly.
    pos = torch.tensor([[-1, -1, 0, 1], [1, -1, 0, 1], [9, 9, 0, 9], [-9, 9, 0, 9]], dtype=torch.float32)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    along_V1 = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    rast = RASTERIZER.rasterize(pos, faces, one_range(faces.numpy()), (64, 64))
    along_HW = RASTERIZER.interpolate(along_V1, rast, faces)[0, :, :, 0].double()
    y_H = (torch.arange(64, dtype=torch.float64) + 0.5) / 32 - 1
    fraction_H = (y_H + 1) / 2
    expected_H = (fraction_H / 9) / ((1 - fraction_H) + fraction_H / 9)
    torch.testing.assert_close(along_HW, expected_H[:, None].expand(64, 64), rtol=0, atol=1e-6)
