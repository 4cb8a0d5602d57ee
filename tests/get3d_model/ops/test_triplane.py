"""Tri-plane lookup against hand-written bilinear interpolation, and the lattice path against the general one."""

import math

import torch

from get3d_model.isosurface.grid import bcc_grid
from get3d_model.ops.triplane import LatticeLookup, PointLookup, sample_triplanes


def bilinear_by_hand(plane_CRR, u, v):
    """plane[c, row(v), column(u)] with zeros outside."""
    size = plane_CRR.shape[-1]
    x, y = (u + 1) * size / 2 - 0.5, (v + 1) * size / 2 - 0.5
    total = torch.zeros(plane_CRR.shape[0], dtype=plane_CRR.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < size and 0 <= column < size:
                total += plane_CRR[:, row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def test_planes_are_read_at_xy_yz_xz():
    planes = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    points = torch.rand(2, 5, 3, dtype=torch.float64) * 2.2 - 1.1
    ours = sample_triplanes(planes, points)
    assert ours.shape == (2, 2, 5)
    for b in range(2):
        for p in range(5):
            x, y, z = points[b, p].clamp(-1, 1).tolist()
            expected = (
                bilinear_by_hand(planes[b, 0:2], x, y)
                + bilinear_by_hand(planes[b, 2:4], y, z)
                + bilinear_by_hand(planes[b, 4:6], x, z)
            )
            assert torch.allclose(ours[b, :, p], expected, atol=1e-12)


def test_no_gradient_flows_into_the_points():
    points = torch.rand(1, 4, 3, requires_grad=True)
    planes = torch.randn(1, 3, 4, 4, requires_grad=True)
    sample_triplanes(planes, points).sum().backward()
    assert points.grad is None and planes.grad is not None


def test_lattice_lookup_equals_point_lookup_with_gradients():
    grid = bcc_grid(6, 1.0)
    lattices = [tuple(axis * 2 for axis in xyz) for xyz in grid.lattices]
    results = []
    for lookup in (LatticeLookup(lattices, 8), PointLookup(grid.vertices_N3 * 2)):
        torch.manual_seed(0)
        planes = torch.randn(2, 6, 8, 8, requires_grad=True)
        features = lookup(planes)
        (features * torch.randn_like(features)).sum().backward()
        results.append((features.detach(), planes.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-4)
