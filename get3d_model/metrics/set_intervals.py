"""Set metrics of a matrix of distances, each with its bootstrap interval.

Shape legend: R references, S samples, T the samples that 1-NNA compares with the references, P points, K resamples
"""

from __future__ import annotations

import numpy as np

from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.set_metrics import jensen_shannon, set_scores


def matching_intervals(between_RS: np.ndarray, bootstrap: Bootstrap) -> dict[str, Interval]:
    """`cov` and `mmd` of `set_scores`, with intervals by halves: a shape drawn twice would spoil neighbours."""

    def scores(i_KR: np.ndarray, j_KS: np.ndarray) -> dict[str, np.ndarray]:
        drawn = [set_scores(between_RS[np.ix_(i, j)]) for i, j in zip(i_KR, j_KS, strict=True)]
        return {"cov": np.array([s.cov for s in drawn]), "mmd": np.array([s.mmd for s in drawn])}

    found = bootstrap.intervals(scores, between_RS.shape, neighbors=True)
    return {"cov": _within(found["cov"], 1.0), "mmd": _within(found["mmd"], np.inf)}


def one_nna_interval(
    references_RR: np.ndarray, between_RT: np.ndarray, samples_TT: np.ndarray, bootstrap: Bootstrap
) -> Interval:
    """Accuracy of the leave-one-out nearest neighbour; see `set_metrics.one_nearest_neighbour`."""
    scores = set_scores(between_RT, references_RR, samples_TT)
    assert scores.one_nna_correct_N is not None
    return bootstrap.mean(scores.one_nna_correct_N)


def divergence_interval(cells_RP: np.ndarray, cells_SP: np.ndarray, bootstrap: Bootstrap) -> Interval:
    """JSD of occupied cells; see `set_metrics.jensen_shannon`."""

    def divergence(i_KR: np.ndarray, j_KS: np.ndarray) -> np.ndarray:
        return np.array([jensen_shannon(cells_RP[i], cells_SP[j]) for i, j in zip(i_KR, j_KS, strict=True)])

    sizes = [len(cells_RP), len(cells_SP)]
    return _within(bootstrap.interval(divergence, sizes, neighbors=True), 1.0)


def _within(interval: Interval, high: float) -> Interval:
    """Intervals that are put around a value may reach beyond what is possible."""
    return Interval(interval.value, max(0.0, interval.low), min(high, interval.high))
