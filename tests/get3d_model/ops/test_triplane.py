"""Tri-plane lookup against hand-written bilinear interpolation, and the lattice path against the general one."""

import math

import pytest
import torch

from get3d_model.isosurface.grid import bcc_grid
from get3d_model.networks.fields import run_layers
from get3d_model.ops.triplane import LatticeLookup, LatticeSamples, PointLookup, sample_triplanes


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


def random_mlp(width: int, outputs: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Layers (weight BOI, bias O) for two shapes of 5 features."""
    sizes = ((width, 5), (outputs, width))
    return [(torch.randn(2, *size, dtype=torch.float64), torch.randn(size[0]).double()) for size in sizes]


@pytest.mark.parametrize("points_at_a_time", [1, 100, 10**6])
def test_lattice_samples_without_gradients(points_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sums are the features, and slabs of an MLP are the MLP, also where lattices reach beyond the planes."""
    monkeypatch.setattr("get3d_model.ops.triplane.POINTS_AT_A_TIME", points_at_a_time)
    torch.manual_seed(0)
    lattices = [
        (torch.linspace(-1.3, 1, 7), torch.linspace(-1, 1, 5), torch.linspace(-0.7, 1.2, 6)),
        (torch.linspace(0, 0.4, 3), torch.linspace(-1, 0, 2), torch.linspace(0.1, 1, 4)),
    ]
    points = torch.cat(
        [torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2) for axes in lattices]
    )
    planes = torch.randn(2, 15, 8, 8, dtype=torch.float64).to(memory_format=torch.channels_last)
    expected_BCP = sample_triplanes(planes, points.double().expand(2, -1, -1))
    with torch.no_grad():
        samples = LatticeLookup(lattices, 8)(planes)
    assert isinstance(samples, LatticeSamples)
    assert torch.allclose(samples.expand(), expected_BCP, atol=1e-6)
    sdf, deform = random_mlp(6, 1), random_mlp(4, 3)
    assert samples.can_evaluate(sdf, deform)
    sdf_BN, deform_BN3 = samples.evaluate(sdf, deform)
    assert torch.allclose(sdf_BN, run_layers(sdf, expected_BCP)[:, 0], atol=1e-5)
    assert torch.allclose(deform_BN3, run_layers(deform, expected_BCP).transpose(1, 2), atol=1e-5)
