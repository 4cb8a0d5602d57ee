"""Averaging and cleaning of gradients in one process; several are in test_distributed."""

from __future__ import annotations

import math

import pytest
import torch

from get3d_model.training.distributed import World
from get3d_model.training.gradients import average_gradients

ALONE = World(0, 1, torch.device("cpu"))


def test_non_finite_gradients_are_replaced_and_counted() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((4,), (2, 1)))
    without = torch.nn.Parameter(torch.zeros(1))
    first.grad = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0])
    second.grad = torch.tensor([[3.0], [4.0]])
    figures = average_gradients([first, without, second], ALONE)
    assert first.grad.tolist() == [0.0, 1e5, -1e5, 2.0]
    assert second.grad.tolist() == [[3.0], [4.0]] and without.grad is None
    assert int(figures.replaced) == 3
    assert float(figures.norm) == pytest.approx(math.sqrt(2e10 + 4 + 9 + 16))


def test_nothing_to_average() -> None:
    figures = average_gradients([torch.nn.Parameter(torch.zeros(1))], ALONE)
    assert (float(figures.norm), float(figures.replaced)) == (0.0, 0.0)
