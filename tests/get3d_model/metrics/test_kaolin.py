"""Chamfer distance on a GPU: ours on CUDA against the CPU, and kaolin's against ours.

Shape legend: R references, S samples, P points, Q points
"""

from __future__ import annotations

import pytest
import torch

from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.kaolin_backend import KaolinNearestDistance, missing_requirement
from get3d_model.metrics.nearest import MatrixProductDistance

pytestmark = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
needs_kaolin = pytest.mark.skipif(missing_requirement() is not None, reason=f"{missing_requirement()}")


def clouds(sets: int, points: int, seed: int) -> torch.Tensor:
    """Points on ellipsoids of unit longest side, as the evaluation compares surfaces."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(sets, points, 3, generator=generator), dim=-1)
    axes = 0.2 + 0.3 * torch.rand(sets, 1, 3, generator=generator)
    return direction * axes / axes.amax(dim=-1, keepdim=True) / 2


@needs_cuda
def test_chamfer_on_cuda_equals_the_cpu() -> None:
    references, samples = clouds(3, 2048, 0), clouds(7, 1500, 1)
    on_cpu = chamfer_matrix(references, samples)
    on_cuda = chamfer_matrix(references.cuda(), samples.cuda())
    assert on_cuda.device.type == "cpu"
    torch.testing.assert_close(on_cuda, on_cpu, atol=2e-7, rtol=1e-4)


@needs_kaolin
def test_nearest_distances_equal_kaolins() -> None:
    reference, samples = clouds(1, 2048, 2)[0].cuda(), clouds(5, 1500, 3).cuda()
    for ours, theirs in zip(
        MatrixProductDistance()(reference, samples), KaolinNearestDistance()(reference, samples), strict=True
    ):
        assert theirs.max() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=5e-7, rtol=1e-4)


@needs_kaolin
def test_chamfer_distance_equals_kaolins() -> None:
    pointcloud = pytest.importorskip("kaolin.metrics.pointcloud")
    references, samples = clouds(4, 1024, 4), clouds(6, 2048, 5)
    ours_RS = chamfer_matrix(references.cuda(), samples.cuda())
    through_adapter_RS = chamfer_matrix(references.cuda(), samples.cuda(), nearest=KaolinNearestDistance())
    theirs_RS = torch.stack(
        [
            pointcloud.chamfer_distance(r.expand(len(samples), -1, -1).contiguous().cuda(), samples.cuda())
            for r in references
        ]
    ).cpu()
    torch.testing.assert_close(ours_RS, theirs_RS, atol=2e-7, rtol=1e-4)
    torch.testing.assert_close(through_adapter_RS, theirs_RS, atol=1e-7, rtol=1e-5)
