"""The moving average of the generator against its formula."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from get3d_model.training.ema import ema_beta, update_ema


def test_a_weight_halves_in_one_half_life() -> None:
    beta = ema_beta(batch_size=32, half_life_kimg=10.0, images_seen=10**9, rampup=0.05)
    assert beta ** (10_000 / 32) == pytest.approx(0.5)
    assert ema_beta(32, 10.0, 1, None) == beta


def test_rampup_shortens_the_half_life_to_a_share_of_the_images_seen() -> None:
    beta = ema_beta(batch_size=16, half_life_kimg=10.0, images_seen=4000, rampup=0.05)
    assert beta ** (200 / 16) == pytest.approx(0.5)
    assert ema_beta(16, 10.0, 0, 0.05) == 0.0


def test_parameters_are_averaged_and_buffers_copied() -> None:
    module = nn.BatchNorm1d(3, dtype=torch.float64)
    average = copy.deepcopy(module).requires_grad_(False)
    expected = torch.zeros(3, dtype=torch.float64)
    for value, beta in ((1.0, 0.9), (5.0, 0.5), (-2.0, 0.99)):
        with torch.no_grad():
            module.bias.fill_(value)
            module.running_mean.fill_(value)
        expected = beta * expected + (1 - beta) * value
        update_ema(average, module, beta)
        assert torch.allclose(average.bias, expected, rtol=1e-14)
        assert torch.equal(average.running_mean, module.running_mean)
    assert torch.equal(module.bias, torch.full((3,), -2.0, dtype=torch.float64))
