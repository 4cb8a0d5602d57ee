"""KID against the sums of its definition, written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from get3d_model.metrics import kid
from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.kid import kernel_inception_distance, kid_interval

CPU = torch.device("cpu")


def direct(x: np.ndarray, y: np.ndarray) -> float:
    """One pair of features at a time."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1.0) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def draws(n: int, m: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)).astype(np.float32), rng.normal(shift, 1, (m, 5)).astype(np.float32)


def test_equal_counts_are_the_definition() -> None:
    x, y = draws(40, 40, 0.4)
    assert kernel_inception_distance(x, y, CPU) == pytest.approx(direct(x, y), rel=1e-9)


def test_subsets_of_the_larger_set_average_to_the_definition() -> None:
    x, y = draws(60, 30, 0.4)
    assert kernel_inception_distance(x, y, CPU) == pytest.approx(direct(x, y), rel=0.1)
    assert kernel_inception_distance(x, y, CPU, 1) == kernel_inception_distance(x, y, CPU, 1)
    assert kernel_inception_distance(x, y, CPU, 1) != kernel_inception_distance(x, y, CPU, 2)


def test_seeding_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    kernel_inception_distance(*draws(20, 10, 0.4), CPU)
    assert torch.rand(1) == expected


def test_the_interval_holds_nought_for_equal_laws_and_not_for_others() -> None:
    same = kid_interval(*draws(150, 150, 0.0), Bootstrap(200), CPU)
    other = kid_interval(*draws(150, 150, 0.6), Bootstrap(200), CPU)
    assert same.low < 0 < same.high and other.low > 0
    spread = np.std([kernel_inception_distance(*draws(150, 150, 0.6, seed), CPU) for seed in range(50)])
    assert other.high - other.low == pytest.approx(3.92 * spread, rel=0.4)


def test_large_sets_go_by_disjoint_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid, "SUBSET_SIZE", 50)
    x, y = draws(600, 500, 0.6)
    interval = kid_interval(x, y, Bootstrap(200), CPU)
    spread = np.std([kernel_inception_distance(*draws(500, 500, 0.6, seed), CPU) for seed in range(20)])
    assert interval.low < direct(x[:200], y[:200]) * 1.5 and interval.low > 0
    assert interval.high - interval.low == pytest.approx(3.92 * spread, rel=0.6)


def test_few_images() -> None:
    interval = kid_interval(*draws(3, 3, 0.0), Bootstrap(10), CPU)
    assert math.isfinite(interval.value) and math.isnan(interval.low)
    with pytest.raises(ValueError, match="got 1 and 3"):
        kid_interval(*draws(1, 3, 0.0), Bootstrap(10), CPU)
