"""Set metrics of a matrix of distances, each with its bootstrap interval.

Shape legend: R references, S samples, T the samples that 1-NNA compares with the references, P points, G cells,
K resamples, N drawn shapes
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.special import rel_entr

from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.set_metrics import JSD_GRID, set_scores

# Resamples of the JSD at once: 22 000 cells each, several arrays of 8 bytes.
_DIVERGENCES = 64


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


def divergence_interval(
    cells_RP: np.ndarray, cells_SP: np.ndarray, bootstrap: Bootstrap, grid: int = JSD_GRID
) -> Interval:
    """JSD of occupied cells; see `set_metrics.jensen_shannon`."""
    # How often each shape is in each cell, so that a resample is a row of a product.
    occupied = [_occupation(cells, grid) for cells in (cells_RP, cells_SP)]

    def divergence(i_KR: np.ndarray, j_KS: np.ndarray) -> np.ndarray:
        first_KG, second_KG = (
            _summed(index_KN, counts_NG) for index_KN, counts_NG in zip((i_KR, j_KS), occupied, strict=True)
        )
        mean_KG = (first_KG + second_KG) / 2
        # What is nowhere adds nothing: 0 log 0 = 0.
        return (rel_entr(first_KG, mean_KG) + rel_entr(second_KG, mean_KG)).sum(axis=1) / (2 * np.log(2))

    sizes = [len(cells_RP), len(cells_SP)]
    return _within(bootstrap.interval(divergence, sizes, neighbors=True, block=_DIVERGENCES), 1.0)


def _occupation(cells_NP: np.ndarray, grid: int) -> csr_matrix:
    """Points of every shape in every cell, N x G."""
    shapes, points = cells_NP.shape
    rows = np.repeat(np.arange(shapes), points)
    counts = np.ones(shapes * points)
    # Equal entries are summed.
    return coo_matrix((counts, (rows, cells_NP.reshape(-1))), shape=(shapes, grid**3)).tocsr()


def _summed(index_KN: np.ndarray, counts_NG: csr_matrix) -> np.ndarray:
    """Distributions over the cells of the drawn shapes together; KG."""
    resamples, drawn = index_KN.shape
    rows = np.repeat(np.arange(resamples), drawn)
    drawn_KN = coo_matrix(
        (np.ones(index_KN.size), (rows, index_KN.reshape(-1))), shape=(resamples, counts_NG.shape[0])
    )
    total_KG = (counts_NG.T @ drawn_KN.toarray().T).T
    return total_KG / total_KG.sum(axis=1, keepdims=True)


def _within(interval: Interval, high: float) -> Interval:
    """Intervals that are put around a value may reach beyond what is possible."""
    return Interval(interval.value, max(0.0, interval.low), min(high, interval.high))
