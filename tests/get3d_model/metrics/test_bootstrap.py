"""Intervals against the normal distribution's closed form, and against what they claim: how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from get3d_model.metrics.bootstrap import Bootstrap, Interval


def test_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 500)
    interval = Bootstrap(resamples=4000).mean(values)
    error = values.std(ddof=0) / math.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean(), rel=1e-12)
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    wider = Bootstrap(resamples=4000, confidence=0.99).mean(values)
    assert wider.low < interval.low < interval.high < wider.high


@pytest.mark.parametrize("size", [40, 41])
def test_halves_spread_as_much_as_the_whole(size: int) -> None:
    """Of a mean, both ways of drawing give one interval."""
    values = np.random.default_rng(2).normal(size=size)

    def mean(index_KM: np.ndarray) -> np.ndarray:
        assert (np.diff(index_KM, axis=1) > 0).all(), "drawn without replacement"
        return values[index_KM].mean(axis=1)

    halves = Bootstrap(resamples=8000).interval(mean, [size], neighbors=True)
    again = Bootstrap(resamples=8000).mean(values)
    assert halves.high - halves.low == pytest.approx(again.high - again.low, rel=0.06)
    assert halves.value == again.value


def test_the_interval_holds_as_often_as_it_says() -> None:
    rng, settings = np.random.default_rng(3), Bootstrap(resamples=300, confidence=0.9)
    held = 0
    for _ in range(300):
        interval = settings.mean(rng.exponential(1.0, 60))
        held += interval.low <= 1.0 <= interval.high
    assert 0.82 <= held / 300 <= 0.95


def test_two_sets_are_drawn_independently_and_named() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.0, 3.0, 200), rng.normal(1.0, 4.0, 100)

    def statistic(i_KM: np.ndarray, j_KM: np.ndarray) -> dict[str, np.ndarray]:
        return {"difference": second[j_KM].mean(axis=1) - first[i_KM].mean(axis=1), "one": np.ones(len(i_KM))}

    result = Bootstrap(resamples=2000).intervals(statistic, [200, 100])
    error = math.sqrt(first.var() / 200 + second.var() / 100)
    assert result["difference"].high - result["difference"].low == pytest.approx(3.92 * error, rel=0.1)
    assert result["one"] == Interval(1.0, 1.0, 1.0)


def test_a_copy_in_the_resample_would_spoil_nearest_neighbours() -> None:
    """Mean distance to the nearest other: nought for what is drawn twice; halves keep the interval around it."""
    points = np.random.default_rng(5).random(60)
    distance = np.abs(points[:, None] - points)

    def nearest(index_KM: np.ndarray) -> np.ndarray:
        drawn = distance[index_KM[:, :, None], index_KM[:, None, :]]
        drawn[:, np.arange(drawn.shape[1]), np.arange(drawn.shape[1])] = np.inf
        return drawn.min(axis=2).mean(axis=1)

    halves = Bootstrap().interval(nearest, [60], neighbors=True, block=100)
    again = Bootstrap().interval(nearest, [60], block=100)
    assert halves.low < halves.value < halves.high
    assert again.high < again.value


def test_seed_and_block() -> None:
    values = np.random.default_rng(6).normal(size=50)
    assert Bootstrap(seed=1).mean(values) == Bootstrap(seed=1).mean(values)
    assert Bootstrap(seed=1).mean(values) != Bootstrap(seed=2).mean(values)

    def mean(index_KM: np.ndarray) -> np.ndarray:
        return values[index_KM].mean(axis=1)

    whole = Bootstrap().interval(mean, [50])
    assert Bootstrap().interval(mean, [50], block=7).low == pytest.approx(whole.low, abs=0.05)


def test_edges() -> None:
    assert Bootstrap().mean([2.0]) == Interval(2.0, 2.0, 2.0)
    assert Bootstrap().quantile([1, 2, 3, 4, 100]).value == 3
    none = Bootstrap().mean([])
    assert none.as_dict() == {"value": None, "low": None, "high": None}
    assert Bootstrap().interval(lambda i: np.zeros(len(i)), [1], neighbors=True) == Interval(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="sizes \\(3, 0\\)"):
        Bootstrap().interval(lambda i, j: np.zeros(len(i)), [3, 0])
    with pytest.raises(ValueError, match="resamples"):
        Bootstrap(resamples=0)
