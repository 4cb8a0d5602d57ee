"""How well a set of generated shapes stands for a set of references: COV, MMD, 1-NNA and JSD.

Every score keeps what each shape contributed, so that intervals can be drawn from the same matrices again:
`set_scores(between_RS[np.ix_(r, s)])` for COV and MMD; for 1-NNA the mean of drawn `one_nna_correct_N` (a shape
drawn twice would be its own neighbour at distance 0).

Sources: COV, MMD, JSD: Achlioptas et al. 2018, "Learning Representations and Generative Models for 3D Point Clouds",
section 4. 1-NNA: Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests", as used for shapes by Yang et
al. 2019, "PointFlow". Conventions of GET3D: the generated set is five times the references.

Shape legend: R references, S samples, T the first R samples, N = R + T, P points, G cells of the grid
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Cells along each side of the occupancy grid of the JSD (Achlioptas et al.).
JSD_GRID = 28


@dataclass(frozen=True)
class SetScores:
    """covered_R: bool, the reference is the nearest one of at least one sample. nearest_sample_R: distance of each
    reference to its nearest sample. nearest_reference_S, nearest_reference_distance_S: the nearest reference of
    each sample and its distance. one_nna_correct_N: 1 where a shape's nearest neighbour in the union is of its own
    set, 0 where of the other, 0.5 at a tie; references first; none where distances within the sets were not given.
    """

    covered_R: np.ndarray
    nearest_sample_R: np.ndarray
    nearest_reference_S: np.ndarray
    nearest_reference_distance_S: np.ndarray
    one_nna_correct_N: np.ndarray | None = None

    @property
    def cov(self) -> float:
        """Share of references that are the nearest reference of at least one sample. Higher is better."""
        return float(self.covered_R.mean())

    @property
    def mmd(self) -> float:
        """Mean over references of the distance to their nearest sample. Lower is better."""
        return float(self.nearest_sample_R.mean(dtype=np.float64))

    @property
    def one_nna(self) -> float | None:
        """Accuracy of telling the sets apart by the nearest neighbour. 0.5 is best: they cannot be told apart."""
        return None if self.one_nna_correct_N is None else float(self.one_nna_correct_N.mean())

    def flat(self, prefix: str, mmd_factor: float = 1.0, mmd_suffix: str = "") -> dict[str, float | None]:
        """`{prefix}_cov`, `{prefix}_mmd{suffix}` (times the factor) and `{prefix}_1nna`, for metrics.json."""
        return {
            f"{prefix}_cov": self.cov,
            f"{prefix}_mmd{mmd_suffix}": self.mmd * mmd_factor,
            f"{prefix}_1nna": self.one_nna,
        }


def set_scores(
    between_RS: np.ndarray,
    references_RR: np.ndarray | None = None,
    samples_TT: np.ndarray | None = None,
) -> SetScores:
    """Scores from distances between the sets and, for 1-NNA, within them.

    samples_TT: distances among the first T samples; 1-NNA compares them with as many references (T = R where there
    are that many samples; otherwise the first T references).
    Raises ValueError when a set is empty or a matrix does not fit.
    """
    between_RS = np.asarray(between_RS)
    references, samples = between_RS.shape
    if not references or not samples:
        raise ValueError(f"scores need references and samples, got {references} and {samples}")
    nearest_reference_S = between_RS.argmin(axis=0)
    covered_R = np.zeros(references, bool)
    covered_R[nearest_reference_S] = True
    correct_N = None
    if references_RR is not None and samples_TT is not None:
        correct_N = one_nearest_neighbour(np.asarray(references_RR), between_RS, np.asarray(samples_TT))
    return SetScores(
        covered_R=covered_R,
        nearest_sample_R=between_RS.min(axis=1),
        nearest_reference_S=nearest_reference_S,
        nearest_reference_distance_S=between_RS.min(axis=0),
        one_nna_correct_N=correct_N,
    )


def one_nearest_neighbour(
    references_RR: np.ndarray, between_RS: np.ndarray, samples_TT: np.ndarray
) -> np.ndarray:
    """See `SetScores.one_nna_correct_N`; sets of one size n = min(R, T), the first n of each; 2n float64."""
    count = min(len(references_RR), len(samples_TT))
    if between_RS.shape[0] < count or between_RS.shape[1] < count or count < 2:
        raise ValueError(
            f"1-NNA needs two of each and matrices that fit, got {references_RR.shape}, {between_RS.shape}, "
            f"{samples_TT.shape}"
        )
    across = between_RS[:count, :count].astype(np.float64)
    within_r, within_s = (m[:count, :count].astype(np.float64) for m in (references_RR, samples_TT))
    np.fill_diagonal(within_r, np.inf)
    np.fill_diagonal(within_s, np.inf)
    own_N = np.concatenate([within_r.min(axis=1), within_s.min(axis=1)])
    other_N = np.concatenate([across.min(axis=1), across.min(axis=0)])
    return np.where(own_N < other_N, 1.0, np.where(own_N > other_N, 0.0, 0.5))


def occupied_cells(points_SP3: np.ndarray, half_extent: float, grid: int = JSD_GRID) -> np.ndarray:
    """The cell of each point in a cube of `grid` cells a side around the origin; SP int32.

    half_extent: half the side of the cube; points outside count in the outermost cells. 0.5 for meshes in the unit
    box, 1 for the unit sphere.
    """
    cell_SP3 = np.floor((np.asarray(points_SP3) / half_extent + 1.0) * (grid / 2))
    cell_SP3 = np.clip(cell_SP3, 0, grid - 1).astype(np.int32)
    return (cell_SP3[..., 0] * grid + cell_SP3[..., 1]) * grid + cell_SP3[..., 2]


def jensen_shannon(cells_RP: np.ndarray, cells_SP: np.ndarray, grid: int = JSD_GRID) -> float:
    """Jensen-Shannon divergence in bits, 0 to 1, between the distributions of two sets' points over the cells.

    cells: from `occupied_cells`. For an interval, draw rows. It compares marginal distributions: two sets with the
    same average shape are near each other, whatever the single shapes.
    """
    first_G, second_G = (
        np.bincount(cells.reshape(-1), minlength=grid**3) / cells.size for cells in (cells_RP, cells_SP)
    )
    mean_G = (first_G + second_G) / 2

    def divergence(p_G: np.ndarray) -> float:
        used = p_G > 0
        return float((p_G[used] * np.log2(p_G[used] / mean_G[used])).sum())

    return (divergence(first_G) + divergence(second_G)) / 2
