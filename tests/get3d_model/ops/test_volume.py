"""Volume lookup against hand-written trilinear interpolation, and the lattice path against the general one."""

import math

import torch

from get3d_model.isosurface.grid import bcc_grid
from get3d_model.ops.volume import VolumeLatticeLookup, VolumePointLookup, sample_volume


def trilinear_by_hand(volume_CDHW, point_3):
    """volume[c, z, y, x]; the end voxels lie on -1 and 1."""
    position = [(c + 1) / 2 * (n - 1) for c, n in zip(point_3, volume_CDHW.shape[:0:-1], strict=True)]
    total = torch.zeros(volume_CDHW.shape[0], dtype=volume_CDHW.dtype)
    for corner in range(8):
        index = [math.floor(p) + (corner >> axis & 1) for axis, p in enumerate(position)]
        weight = math.prod(1 - abs(p - i) for p, i in zip(position, index, strict=True))
        if weight > 0:
            total += volume_CDHW[:, index[2], index[1], index[0]] * weight
    return total


def test_volumes_are_read_at_xyz():
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(2, 3, 5, 5, 5, dtype=torch.float64, generator=generator)
    points = torch.rand(2, 6, 3, dtype=torch.float64, generator=generator) * 2.2 - 1.1
    ours = sample_volume(volume, points)
    assert ours.shape == (2, 6, 3)
    for b in range(2):
        for p in range(6):
            expected = trilinear_by_hand(volume[b], points[b, p].clamp(-1, 1).tolist())
            assert torch.allclose(ours[b, p], expected, atol=1e-12)


def test_lattice_lookup_equals_point_lookup_with_gradients():
    grid = bcc_grid(6, 1.0)
    lattices = [tuple(axis * 2 for axis in xyz) for xyz in grid.lattices]
    results = []
    for lookup in (VolumeLatticeLookup(lattices, 8), VolumePointLookup(grid.vertices_N3 * 2)):
        generator = torch.Generator().manual_seed(0)
        volume = torch.randn(2, 4, 8, 8, 8, generator=generator).requires_grad_(True)
        features = torch.cat(lookup.parts(volume), dim=1)
        (features * torch.randn(features.shape, generator=generator)).sum().backward()
        results.append((features.detach(), volume.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-4)
