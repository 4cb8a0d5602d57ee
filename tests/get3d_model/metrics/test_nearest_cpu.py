"""The CPU kernel of the nearest distances against float64 brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from get3d_model.metrics import nearest_cpu
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.nearest_cpu import CpuNearestDistance
from tests.get3d_model.metrics.test_chamfer import clouds


@pytest.mark.parametrize(("points", "others"), [(64, 64), (70, 33), (1, 1), (7, 300)])
def test_both_directions_against_brute_force(
    points: int, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference_P3, points_SQ3 = clouds(1, points, 0)[0], clouds(3, others, 1)
    forward_SP, backward_SQ = CpuNearestDistance()(reference_P3, points_SQ3)
    difference = reference_P3.double()[None, :, None] - points_SQ3.double()[:, None]
    expected_SPQ = difference.square().sum(dim=-1)
    torch.testing.assert_close(forward_SP.double(), expected_SPQ.amin(dim=2), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(backward_SQ.double(), expected_SPQ.amin(dim=1), rtol=1e-5, atol=1e-12)


def test_sets_longer_than_a_chunk() -> None:
    long, short = clouds(1, nearest_cpu._CHUNK + 77, 2), clouds(1, 50, 3)
    nearest = CpuNearestDistance()
    one = chamfer_matrix(short, long, nearest=nearest)
    other = chamfer_matrix(long, short, nearest=nearest)
    torch.testing.assert_close(one, other.T, rtol=1e-5, atol=0)
    torch.testing.assert_close(one, chamfer_matrix(short, long), rtol=1e-4, atol=0)


def test_a_set_against_itself() -> None:
    points = clouds(6, 90, 4)
    nearest = CpuNearestDistance()
    told: list[int] = []
    symmetric = chamfer_matrix(points, points, told.append, nearest)
    assert sum(told) == 15
    assert np.array_equal(symmetric, symmetric.T) and not np.diagonal(symmetric).any()
    torch.testing.assert_close(
        symmetric, chamfer_matrix(points, points.clone(), nearest=nearest), rtol=1e-5, atol=0
    )
    assert float(chamfer_matrix(points[:1], points[:1].clone(), nearest=nearest)) == 0.0
