"""FID against the closed form for Gaussians and scipy's matrix square root; its interval against repeated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.fid import fid_interval, frechet_distance, frechet_inception_distance

CPU = torch.device("cpu")


def closed_form(x: np.ndarray, y: np.ndarray) -> float:
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root))


def gaussians(n: int, m: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    y = 0.5 + rng.normal(size=(m, width)) @ rng.normal(size=(width, width))
    return x.astype(np.float32), y.astype(np.float32)


def test_the_distance_of_two_known_gaussians() -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2, by a large sample."""
    rng = np.random.default_rng(1)
    s1, s2, shift = np.array([1.0, 2.0, 0.5, 3.0]), np.array([1.5, 1.0, 0.5, 2.0]), np.array([0.3, 0, -1, 2])
    x, y = rng.normal(size=(200_000, 4)) * s1, rng.normal(size=(200_000, 4)) * s2 + shift
    expected = (shift**2).sum() + ((s1 - s2) ** 2).sum()
    value = frechet_inception_distance(x.astype(np.float32), y.astype(np.float32), CPU)
    assert value == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("n", "m", "width"), [(300, 200, 16), (12, 9, 64), (300, 9, 64), (20, 21, 20)])
def test_torchmetrics_ours_and_scipy_agree(n: int, m: int, width: int) -> None:
    """More images than features, fewer, and both; fewer leave the covariances singular."""
    x, y = gaussians(n, m, width)
    ours = frechet_distance(torch.from_numpy(x).double(), torch.from_numpy(y).double())
    assert frechet_inception_distance(x, y, CPU) == pytest.approx(ours, rel=1e-5, abs=1e-3)
    if n > width < m:
        assert ours == pytest.approx(closed_form(x, y), rel=1e-6)
    assert frechet_distance(*[torch.from_numpy(x).double()] * 2) == pytest.approx(0.0, abs=1e-8)


def test_features_that_are_always_nought() -> None:
    """As rectified features are; the covariances have no Cholesky factor then."""
    x, y = gaussians(300, 200, 16)
    padded = [np.concatenate([z, np.zeros((len(z), 3), np.float32)], axis=1) for z in (x, y)]
    few, more = (frechet_distance(*(torch.from_numpy(z).double() for z in sets)) for sets in ((x, y), padded))
    assert more == pytest.approx(few, rel=1e-9)


def test_the_interval_is_as_wide_as_new_draws_spread() -> None:
    values = [frechet_inception_distance(*gaussians_of_one_law(seed), CPU) for seed in range(60)]
    intervals = [
        fid_interval(*gaussians_of_one_law(seed), Bootstrap(80, 0.9), CPU) for seed in (100, 101, 102)
    ]
    width = np.mean([interval.high - interval.low for interval in intervals])
    assert width == pytest.approx(2 * 1.645 * np.std(values), rel=0.35)
    assert all(interval.low < interval.value < interval.high for interval in intervals)


def gaussians_of_one_law(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(300, 6)).astype(np.float32),
        rng.normal(0.7, 1.4, size=(300, 6)).astype(np.float32),
    )


def test_few_images() -> None:
    x, y = gaussians(3, 3, 4)
    interval = fid_interval(x, y, Bootstrap(10), CPU)
    assert math.isfinite(interval.value) and math.isnan(interval.low)
    with pytest.raises(ValueError, match="two images of each kind, got 1 and 3"):
        fid_interval(x[:1], y, Bootstrap(10), CPU)
