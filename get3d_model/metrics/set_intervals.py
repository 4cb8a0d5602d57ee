"""Set metrics of a matrix of distances, each with its bootstrap interval.

Shape legend: R references, S samples, T the samples that 1-NNA compares with the references, P points, G cells,
K resamples or kept neighbours, N M drawn shapes
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.special import rel_entr

from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.set_metrics import JSD_GRID, set_scores

# Neighbours of a shape that are kept: that none of 24 is in a random half happens once in 10^7 times.
_KEPT = 24
# Resamples of the JSD at once: 22 000 cells each, several arrays of 8 bytes.
_DIVERGENCES = 64


def matching_intervals(between_RS: np.ndarray, bootstrap: Bootstrap) -> dict[str, Interval]:
    """`cov` and `mmd` of `set_scores`, with intervals by halves: a shape drawn twice would spoil neighbours."""
    between_RS = np.asarray(between_RS)
    to_samples, to_references = _Neighbours(between_RS), _Neighbours(between_RS.T)

    def scores(i_KR: np.ndarray, j_KS: np.ndarray) -> dict[str, np.ndarray]:
        cov, mmd = [], []
        for i, j in zip(i_KR, j_KS, strict=True):
            cov.append(len(np.unique(to_references.nearest(j, i))) / len(i))
            mmd.append(between_RS[i, to_samples.nearest(i, j)].mean(dtype=np.float64))
        return {"cov": np.array(cov), "mmd": np.array(mmd)}

    found = bootstrap.intervals(scores, between_RS.shape, neighbors=True)
    return {"cov": _within(found["cov"], 1.0), "mmd": _within(found["mmd"], np.inf)}


class _Neighbours:
    """Nearest columns of a matrix of distances among those that were drawn, without looking at all of them: of every
    row the nearest ones in order are kept, and of a half the first is nearly always among them."""

    def __init__(self, distances_NM: np.ndarray) -> None:
        self._distances_NM = distances_NM
        kept = min(_KEPT, distances_NM.shape[1])
        self._order_NK = np.empty((len(distances_NM), kept), np.int64)
        for n, row_M in enumerate(distances_NM):
            # All that are as near as the last one that is kept, so that ties go to the first column, as by argmin.
            near = np.flatnonzero(row_M <= np.partition(row_M, kept - 1)[kept - 1])
            self._order_NK[n] = near[np.argsort(row_M[near], kind="stable")[:kept]]

    def nearest(self, rows_N: np.ndarray, columns_M: np.ndarray) -> np.ndarray:
        """For each row the nearest of the columns, the first one of equals; N. columns: rising."""
        drawn_M = np.zeros(self._distances_NM.shape[1], bool)
        drawn_M[columns_M] = True
        order_NK = self._order_NK[rows_N]
        there_NK = drawn_M[order_NK]
        first_N = there_NK.argmax(axis=1)
        every_N = np.arange(len(rows_N))
        nearest_N = order_NK[every_N, first_N]
        for n in np.flatnonzero(~there_NK[every_N, first_N]):
            nearest_N[n] = columns_M[self._distances_NM[rows_N[n], columns_M].argmin()]
        return nearest_N


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
