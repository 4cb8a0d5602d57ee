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


def conditional(classes: int = 3) -> MappingNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MappingNetwork(8, 12, num_layers=3, num_classes=classes).requires_grad_(False)


def test_a_class_is_embedded_beside_z() -> None:
    """Against NumPy; the embedding is normalised as z is."""
    network = conditional()
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    class_B = torch.tensor([2, 0, 1, 2])

    def normalised(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)

    embedding = np.eye(3)[class_B.numpy()] @ network.embed.weight.double().numpy().T / np.sqrt(3)
    x = np.concatenate([normalised(z.double().numpy()), normalised(embedding)], axis=1)
    for index in range(3):
        layer = getattr(network, f"fc{index}")
        x = x @ layer.weight.double().numpy().T * MAPPING_LR_MULTIPLIER / np.sqrt(x.shape[1])
        x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
    np.testing.assert_allclose(network(z, class_B=class_B), x, rtol=1e-4, atol=1e-5)


def test_every_class_has_its_own_average() -> None:
    network = conditional()
    network.w_avg.normal_()
    class_B = torch.tensor([2, 0, 2])
    z = torch.randn(3, 8)
    w = network(z, class_B=class_B)
    assert torch.equal(network(z, 0.0, class_B), network.w_avg[class_B])
    assert torch.allclose(network(z, 0.5, class_B), (network.w_avg[class_B] + w) / 2, atol=1e-5)
    before = network.w_avg.clone()
    network.update_w_avg(w, class_B)
    expected = before.clone()
    expected[0] = 0.998 * before[0] + 0.002 * w[1]
    expected[2] = 0.998 * before[2] + 0.002 * (w[0] + w[2]) / 2
    assert torch.equal(network.w_avg[1], before[1]), "a class that is not in the batch keeps its average"
    assert torch.allclose(network.w_avg, expected, atol=1e-6)


def test_classes_are_given_where_there_are_classes(mapping: MappingNetwork) -> None:
    with pytest.raises(ValueError, match="3 classes"):
        conditional()(torch.randn(1, 8))
    with pytest.raises(ValueError, match="0 classes"):
        mapping(torch.randn(1, 8), class_B=torch.tensor([0]))
