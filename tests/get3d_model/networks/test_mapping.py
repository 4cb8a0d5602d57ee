"""The mapping network and truncation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from get3d_model.networks.mapping import MAPPING_LR_MULTIPLIER, MappingNetwork


@pytest.fixture
def mapping() -> MappingNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MappingNetwork(8, 12, num_layers=3).requires_grad_(False)
        network.w_avg.normal_()
    return network


def test_against_numpy(mapping: MappingNetwork) -> None:
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    x = z.double().numpy()
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)
    for index in range(3):
        layer = getattr(mapping, f"fc{index}")
        weight = layer.weight.double().numpy() * MAPPING_LR_MULTIPLIER / np.sqrt(x.shape[1])
        x = x @ weight.T + layer.bias.double().numpy() * MAPPING_LR_MULTIPLIER
        x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
    np.testing.assert_allclose(mapping(z), x, rtol=1e-4, atol=1e-5)


def test_truncation(mapping: MappingNetwork) -> None:
    z = torch.randn(4, 8)
    w = mapping(z)
    assert torch.equal(mapping(z, 0.0), mapping.w_avg.expand(4, -1))
    assert torch.allclose(mapping(z, 0.7), mapping.w_avg + 0.7 * (w - mapping.w_avg), atol=1e-5)
    assert torch.equal(mapping(z, 1.0), w)
    assert torch.allclose(mapping(z, 1.5), mapping.w_avg + 1.5 * (w - mapping.w_avg), atol=1e-5)


def test_only_the_direction_of_z_matters(mapping: MappingNetwork) -> None:
    z = torch.randn(4, 8)
    assert torch.allclose(mapping(z), mapping(z * 100), atol=1e-4)


def test_w_avg_converges_to_the_mean(mapping: MappingNetwork) -> None:
    mean = torch.full((12,), 3.0)
    for _ in range(3000):
        mapping.update_w_avg(torch.stack([mean - 1, mean + 1]))
    assert torch.allclose(mapping.w_avg, mean, atol=0.02)
