"""COV and MMD on matrices that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from get3d_model.metrics.coverage import CoverageScore, coverage_score


def test_by_hand() -> None:
    """Samples 0, 1 and 3 are nearest to reference 0, sample 2 to reference 2, none to reference 1."""
    distance_RS = torch.tensor(
        [
            [1.0, 2.0, 9.0, 1.5],
            [4.0, 3.0, 8.0, 7.0],
            [5.0, 6.0, 0.5, 6.0],
        ]
    )
    score = coverage_score(distance_RS)
    assert score.cov == pytest.approx(2 / 3)
    assert score.mmd == pytest.approx((1.0 + 3.0 + 0.5) / 3)


def test_extremes() -> None:
    perfect = 1.0 - torch.eye(5)
    assert coverage_score(perfect) == CoverageScore(1.0, 0.0)
    collapsed = torch.tensor([[0.0] * 6, [1.0] * 6, [2.0] * 6])
    assert coverage_score(collapsed) == CoverageScore(pytest.approx(1 / 3), 1.0)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_to_compare(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="coverage needs references and samples"):
        coverage_score(torch.zeros(shape))
