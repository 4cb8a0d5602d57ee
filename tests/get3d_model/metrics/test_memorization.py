"""The copying statistic against its definition, and the nearest picture against a search one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.memorization import copying_probability, nearest_pictures, picture_vectors


def test_the_probability_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    samples, held_out = rng.integers(0, 9, 40).astype(float), rng.integers(2, 12, 30).astype(float)
    pairs = [(s < r) + 0.5 * (s == r) for s in samples for r in held_out]
    interval = copying_probability(samples, held_out, Bootstrap(500))
    assert interval.value == pytest.approx(np.mean(pairs), rel=1e-12)
    assert interval.low < interval.value < interval.high


def test_copies_strangers_and_new_shapes() -> None:
    rng = np.random.default_rng(1)
    held_out = rng.uniform(1, 2, 200)
    assert copying_probability(np.zeros(50), held_out, Bootstrap(20)).low == 1.0
    assert copying_probability(np.full(50, 3.0), held_out, Bootstrap(20)).high == 0.0
    new = copying_probability(rng.uniform(1, 2, 200), held_out, Bootstrap(200))
    assert new.low < 0.5 < new.high
    assert math.isnan(copying_probability(np.zeros(0), held_out, Bootstrap(20)).value)


def test_nearest_pictures_are_the_nearest() -> None:
    rng = np.random.default_rng(2)
    train, samples = rng.random((37, 12), np.float32), rng.random((11, 12), np.float32)
    samples[4] = train[20]
    index, distance = nearest_pictures(samples, train)
    expected = np.sqrt(((samples[:, None] - train) ** 2).mean(axis=2))
    np.testing.assert_array_equal(index, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-5, atol=1e-7)
    assert index[4] == 20 and distance[4] == 0
    with pytest.raises(ValueError, match="no training pictures"):
        nearest_pictures(samples, train[:0])


def test_pictures_of_one_thing_at_two_sizes_are_near() -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    large = np.broadcast_to(ramp[None, :, None], (64, 64, 3))[None]
    small = large.reshape(1, 32, 2, 32, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    first, second = picture_vectors([large]), picture_vectors([small])
    assert first.shape == second.shape == (1, 3 * 32 * 32)
    assert np.abs(first - second).max() < 0.02 and 0 <= first.min() <= first.max() <= 1
    assert picture_vectors([]).shape == (0, 3 * 32 * 32)
