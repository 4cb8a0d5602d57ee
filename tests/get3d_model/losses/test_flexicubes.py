"""The FlexiCubes regularisers against their formulas."""

import pytest
import torch

from get3d_model.losses.flexicubes import crossing_distance_deviation, mean_square_weights


def test_deviation_is_a_mean_over_edges_not_over_vertices():
    used = torch.tensor([[True, True, True, False], [True, True, True, True]])
    deviation = torch.tensor([[3.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    assert float(crossing_distance_deviation(deviation, used)) == pytest.approx(7 / 7)
    deviation[1] = 0.0
    assert float(crossing_distance_deviation(deviation, used)) == pytest.approx(4 / 7)
    assert float(crossing_distance_deviation(deviation[:0], used[:0])) == 0.0


def test_mean_square_weights():
    raw = torch.tensor([[[1.0, -2.0, 3.0]]])
    assert float(mean_square_weights(raw)) == pytest.approx(14 / 3)
