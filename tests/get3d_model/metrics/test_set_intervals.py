"""Intervals of set metrics: the search among the nearest finds what the whole matrix says."""

from __future__ import annotations

import numpy as np
import pytest

from get3d_model.metrics import set_intervals
from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.set_intervals import matching_intervals
from get3d_model.metrics.set_metrics import set_scores


@pytest.mark.parametrize("kept", [1, 3, 24])
@pytest.mark.parametrize(("references", "samples"), [(7, 30), (40, 90), (2, 2)])
def test_halves_are_scored_as_by_the_whole_matrix(
    references: int, samples: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few different distances, so that ties decide too; few kept neighbours, so that they do not suffice."""
    monkeypatch.setattr(set_intervals, "_KEPT", kept)
    between_RS = np.random.default_rng(0).integers(0, 9, (references, samples)).astype(np.float32)
    bootstrap = Bootstrap(60)

    def direct(i_KR: np.ndarray, j_KS: np.ndarray) -> dict[str, np.ndarray]:
        drawn = [set_scores(between_RS[np.ix_(i, j)]) for i, j in zip(i_KR, j_KS, strict=True)]
        return {"cov": np.array([s.cov for s in drawn]), "mmd": np.array([s.mmd for s in drawn])}

    expected = bootstrap.intervals(direct, between_RS.shape, neighbors=True)
    found = matching_intervals(between_RS, bootstrap)
    for name, high in (("cov", 1.0), ("mmd", np.inf)):
        assert found[name].value == expected[name].value
        assert found[name].low == max(0.0, expected[name].low)
        assert found[name].high == min(high, expected[name].high)
