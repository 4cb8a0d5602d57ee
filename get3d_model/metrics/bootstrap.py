"""Bootstrap intervals: how far a number would move if other shapes had been drawn.

Two ways of drawing again, both seeded:

- with replacement (Efron 1979), the percentile bootstrap: for means, shares and quantiles of single shapes.
- halves without replacement (half-sampling, McCarthy 1969): for statistics of neighbours and of covariances (COV,
  MMD, 1-NNA, FID), which a shape that is drawn twice would spoil, being its own nearest neighbour. The spread of the
  mean of a random half, drawn without replacement, is just that of the mean of the whole over the population:
  (s^2 / (n/2)) (1 - 1/2) = s^2 / n. What such a statistic also has is a level that depends on the number of shapes;
  so the deviations from the resamples' mean are taken, and put around the measured value.

Shape legend: K resamples, N shapes of a set, M shapes drawn
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[..., Mapping[str, np.ndarray] | np.ndarray]
"""Takes one index array KM per set, returns K values, or K values for each of several names."""
# Elements of the index arrays of one call of a statistic.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Interval:
    """A measured value and the interval around it; nan where nothing could be measured."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON: null where there is no number."""
        fields = {"value": self.value, "low": self.low, "high": self.high}
        return {name: float(number) if math.isfinite(number) else None for name, number in fields.items()}


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made. seed: equal seeds draw equal shapes."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.confidence < 1:
            raise ValueError(
                f"resamples must be at least 1 and confidence in (0, 1), got {self.resamples}, {self.confidence}"
            )

    def intervals(
        self,
        statistic: Statistic,
        sizes: Sequence[int],
        *,
        neighbors: bool = False,
        block: int | None = None,
    ) -> dict[str, Interval]:
        """Intervals of a statistic of one or several sets, drawn independently of each other.

        statistic: given int64 index arrays KM, one per set, it returns K values by name (or an array K, which gets
        the name ""). sizes: N of each set. neighbors: draw halves without replacement, for statistics that a shape
        drawn twice would spoil. block: resamples per call, to bound the statistic's memory (default: 2^20 indices).
        Raises ValueError for an empty set.
        """
        if not sizes or min(sizes) < 1:
            raise ValueError(f"the bootstrap needs shapes in every set, got sizes {tuple(sizes)}")
        rng = np.random.default_rng(self.seed)
        measured = _named(statistic(*(np.arange(size)[None] for size in sizes)))
        block = block or max(1, BLOCK // sum(sizes))
        parts: dict[str, list[np.ndarray]] = {name: [] for name in measured}
        for first in range(0, self.resamples, block):
            count = min(block, self.resamples - first)
            draws = [(_halves if neighbors else _again)(rng, count, size) for size in sizes]
            for name, values_K in _named(statistic(*draws)).items():
                parts[name].append(values_K)
        # Of an odd set the smaller half is drawn, whose mean spreads wider by this much.
        scale = math.sqrt(_drawn(sizes[0]) / max(1, sizes[0] - _drawn(sizes[0]))) if neighbors else 1.0
        return {
            name: self._interval(float(values[0]), np.concatenate(parts[name]), neighbors, scale)
            for name, values in measured.items()
        }

    def interval(
        self,
        statistic: Callable[..., np.ndarray],
        sizes: Sequence[int],
        *,
        neighbors: bool = False,
        block: int | None = None,
    ) -> Interval:
        """As `intervals`, of a statistic that returns one array K."""
        return self.intervals(statistic, sizes, neighbors=neighbors, block=block)[""]

    def mean(self, values_N: Sequence[float] | np.ndarray) -> Interval:
        """Of the mean of per-shape values (of booleans: of their share); nan for none."""
        return self._of_values(values_N, lambda drawn_KM: drawn_KM.mean(axis=1))

    def quantile(self, values_N: Sequence[float] | np.ndarray, q: float = 0.5) -> Interval:
        """Of a quantile of per-shape values, the median by default; nan for none."""
        return self._of_values(values_N, lambda drawn_KM: np.quantile(drawn_KM, q, axis=1))

    def _of_values(
        self, values_N: Sequence[float] | np.ndarray, summary: Callable[[np.ndarray], np.ndarray]
    ) -> Interval:
        values_N = np.asarray(values_N, dtype=np.float64)
        if not len(values_N):
            return Interval(math.nan, math.nan, math.nan)
        return self.interval(lambda index_KM: summary(values_N[index_KM]), [len(values_N)])

    def _interval(self, value: float, resampled_K: np.ndarray, centered: bool, scale: float) -> Interval:
        finite_K = resampled_K[np.isfinite(resampled_K)]
        if not math.isfinite(value) or not len(finite_K):
            return Interval(value, math.nan, math.nan)
        if centered:
            finite_K = value + (finite_K - finite_K.mean()) * scale
        tail = (1.0 - self.confidence) / 2
        low, high = np.quantile(finite_K, [tail, 1.0 - tail])
        return Interval(value, float(low), float(high))


def _named(values: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
    named = values if isinstance(values, Mapping) else {"": values}
    return {name: np.atleast_1d(np.asarray(array, dtype=np.float64)) for name, array in named.items()}


def _drawn(size: int) -> int:
    return max(1, size // 2)


def _again(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """KN, with replacement."""
    return rng.integers(0, size, (count, size))


def _halves(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """KM, each row a random half without replacement, in rising order."""
    half = _drawn(size)
    order_KN = rng.random((count, size)).argpartition(half - 1, axis=1)
    return np.sort(order_KN[:, :half], axis=1)
