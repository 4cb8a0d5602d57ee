"""What becomes of the steps' reports."""

from __future__ import annotations

import math

import torch

from get3d_model.training.distributed import World
from get3d_model.training.report import summarise

ALONE = World(0, 1, torch.device("cpu"))


def test_means_over_the_steps_that_report_a_value_and_sums_of_counts() -> None:
    reports = [
        {"loss/a": torch.tensor(1.0), "replaced_count": torch.tensor(2)},
        {"loss/a": torch.tensor(4.0), "replaced_count": torch.tensor(3), "loss/r1": torch.tensor(7.0)},
    ]
    assert summarise(reports, ALONE) == {"loss/a": 2.5, "loss/r1": 7.0, "replaced_count": 5.0}


def test_a_value_that_is_not_finite_is_not_averaged_away() -> None:
    reports = [{"loss/a": torch.tensor(value)} for value in (1.0, math.inf, 2.0)]
    assert not math.isfinite(summarise(reports, ALONE)["loss/a"])
