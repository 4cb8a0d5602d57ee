"""Set metrics of `get3d evaluate` on made-up point sets whose answers are known."""

from __future__ import annotations

import numpy as np
import torch

from components.evaluate.geometry import geometry_section
from components.evaluate.results import Section
from components.evaluate.shapes import ShapeSet
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.metrics.bootstrap import Bootstrap


def shapes(centres: list[float], seed: int) -> ShapeSet:
    """Small clouds of points, named in the order that they have here."""
    points = np.random.default_rng(seed).normal(0.0, 0.05, (len(centres), 16, 3))
    points[:, :, 0] += np.array(centres)[:, None]
    return ShapeSet([f"shape{i:03d}" for i in range(len(centres))], points.astype(np.float32))


def section(references: ShapeSet, samples: ShapeSet, train: ShapeSet) -> Section:
    settings = EvaluationConfig(
        distances=("cd",), surface_points=16, samples_per_reference=4, bootstrap_resamples=20
    )
    bootstrap = Bootstrap(settings.bootstrap_resamples, settings.confidence, settings.seed)
    return geometry_section(references, samples, train, settings, bootstrap, torch.device("cpu"))


def test_nearest_neighbours_are_not_those_of_the_first_names() -> None:
    """Shapes of a data set lie in the order of their names, and like names are like shapes: the first ones of four
    times as many are all of one kind, which would look like a data set that does not resemble itself."""
    kinds = [-0.45, -0.15, 0.15, 0.45]
    references = shapes(kinds * 10, 0)
    in_order = shapes(sorted(kinds * 40), 1)
    found = section(references, in_order, in_order)
    assert 0.35 < found.metrics["cd_1nna"].value < 0.65
    assert 0.35 < found.controls["train"]["cd_1nna"].value < 0.65


def test_a_nearest_neighbour_that_cannot_be_is_said_to_be_missing() -> None:
    some = shapes([0.0, 0.1, 0.2, 0.3], 2)
    for references, samples in ((some[[0]], some[[1, 2]]), (some[[0, 1]], some[[2]])):
        found = section(references, samples, some)
        assert "cd_1nna" not in found.metrics
        assert f"there are {len(references)} and {len(samples)}" in found.unavailable["cd_1nna"]
    assert not section(some[[0, 1]], some[[2, 3]], some).unavailable
