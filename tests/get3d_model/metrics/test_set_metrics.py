"""Set metrics against small cases worked out by hand, and against definitions written as loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, jensenshannon

from get3d_model.metrics.set_metrics import (
    JSD_GRID,
    jensen_shannon,
    occupied_cells,
    one_nearest_neighbour,
    set_scores,
)


def line(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_worked_out_by_hand() -> None:
    """References at 0, 10, 20; samples at 1, 2, 11: the third reference is nobody's nearest."""
    references, samples = line(0, 10, 20), line(1, 2, 11)
    scores = set_scores(cdist(references, samples), cdist(references, references), cdist(samples, samples))
    assert scores.cov == pytest.approx(2 / 3)
    assert scores.mmd == pytest.approx((1 + 1 + 9) / 3)
    assert scores.nearest_reference_S.tolist() == [0, 0, 1]
    assert scores.nearest_reference_distance_S.tolist() == [1, 2, 1]
    # 0: 1 (other). 10: 11 (other). 20: 11 (other, 9 against 10). 1: tie of 0 and 2. 2: 1 (own). 11: 10 (other).
    assert scores.one_nna_correct_N.tolist() == [0, 0, 0, 0.5, 1, 0]
    assert scores.flat("cd", 1000.0, "_x1000") == {
        "cd_cov": scores.cov, "cd_mmd_x1000": scores.mmd * 1000, "cd_1nna": 1.5 / 6,
    }  # fmt: skip


def test_against_the_definitions() -> None:
    random = np.random.default_rng(0)
    r, s = random.random((20, 2)), random.random((100, 2)) + 0.2
    between = cdist(r, s)
    scores = set_scores(between, cdist(r, r), cdist(s[:20], s[:20]))
    found = {min(range(20), key=lambda i: np.linalg.norm(r[i] - sample)) for sample in s}
    assert scores.cov == len(found) / 20
    assert scores.mmd == pytest.approx(np.mean([min(np.linalg.norm(x - y) for y in s) for x in r]))
    union, labels = np.concatenate([r, s[:20]]), np.repeat([0, 1], 20)
    correct = []
    for i in range(40):
        others = [j for j in range(40) if j != i]
        nearest = min(others, key=lambda j: np.linalg.norm(union[i] - union[j]))
        correct.append(labels[nearest] == labels[i])
    assert scores.one_nna == pytest.approx(np.mean(correct))


def test_what_good_and_bad_look_like() -> None:
    random = np.random.default_rng(1)
    same, again, far = (random.random((200, 3)) + offset for offset in (0, 0, 5))
    alike = one_nearest_neighbour(cdist(same, same), cdist(same, again), cdist(again, again))
    apart = one_nearest_neighbour(cdist(same, same), cdist(same, far), cdist(far, far))
    assert alike.mean() == pytest.approx(0.5, abs=0.1) and apart.mean() == 1.0
    # Copies of the references: each is nearest to its original, never to its own set.
    assert one_nearest_neighbour(cdist(same, same), cdist(same, same), cdist(same, same)).mean() == 0.0


def test_unequal_sets_are_cut_to_one_size() -> None:
    r, s = line(0, 1), line(5, 6, 7)
    correct = one_nearest_neighbour(cdist(r, r), cdist(r, s), cdist(s, s))
    assert correct.tolist() == [1, 1, 1, 1]
    for few in (line(0), np.zeros((0, 1))):
        with pytest.raises(ValueError, match="1-NNA needs two of each"):
            one_nearest_neighbour(cdist(few, few), cdist(few, s), cdist(s, s))
    with pytest.raises(ValueError, match="scores need references and samples, got 0 and 3"):
        set_scores(np.zeros((0, 3)))


def test_cells_of_known_points() -> None:
    edge = 0.5 - 1e-6
    points = np.array([[[-edge, -edge, -edge], [edge, edge, edge], [-edge, -edge, edge], [9.0, 9.0, 9.0]]])
    last = JSD_GRID**3 - 1
    assert occupied_cells(points, 0.5).tolist() == [[0, last, JSD_GRID - 1, last]]


def test_divergence_against_scipy() -> None:
    random = np.random.default_rng(2)
    a, b = (occupied_cells(random.normal(m, 0.1, (7, 500, 3)), 0.5) for m in (0.0, 0.05))
    p, q = (np.bincount(c.reshape(-1), minlength=JSD_GRID**3) for c in (a, b))
    assert jensen_shannon(a, b) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)
    assert jensen_shannon(a, a) == 0.0
    # Sets of other sizes; nothing in common is one bit.
    assert 0.0 < jensen_shannon(a[:3], a[3:]) < 1.0
    assert jensen_shannon(np.zeros((2, 5), int), np.ones((3, 4), int)) == pytest.approx(1.0)
