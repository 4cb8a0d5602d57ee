"""Latent codes against the geometry of the sphere, the statistics of N(0, I), and averages computed otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from get3d_model.errors import InputError
from get3d_model.latents import average_w, latent_codes, neighbours, slerp
from get3d_model.networks.mapping import MappingNetwork


def codes(seed: int, count: int = 2, width: int = 64) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def angle(first: torch.Tensor, last: torch.Tensor) -> float:
    cosine = torch.dot(first.double(), last.double()) / (first.double().norm() * last.double().norm())
    return float(torch.arccos(cosine.clamp(-1, 1)))


def test_seeds() -> None:
    """The same whatever else is drawn; classes come after the code and do not change it."""
    together, none = latent_codes([3, 9, 2**63 - 1], 16)
    alone, _ = latent_codes([9], 16)
    assert none is None and together.shape == (3, 2, 16)
    assert torch.equal(together[1], alone[0]) and not torch.equal(together[0], together[1])
    with_class, class_B = latent_codes(range(3000), 16, num_classes=3)
    assert torch.equal(with_class[9], alone[0])
    assert stats.chisquare(np.bincount(class_B.numpy(), minlength=3)).pvalue > 1e-3
    # The class says nothing about the code.
    first = with_class[:, 0, 0].numpy()
    assert stats.f_oneway(*(first[class_B.numpy() == k] for k in range(3))).pvalue > 1e-3
    with pytest.raises(InputError, match="seed -1"):
        latent_codes([-1], 16)


def test_slerp_turns_evenly_and_stays_on_the_shell() -> None:
    first, last = codes(0)
    weights = torch.linspace(0, 1, 9, dtype=torch.float64)
    walk = slerp(first, last, weights)
    whole = angle(first, last)
    assert whole > 1.0
    for weight, point in zip(weights.tolist(), walk, strict=True):
        assert angle(first, point) == pytest.approx(weight * whole, abs=1e-5)
        assert angle(point, last) == pytest.approx((1 - weight) * whole, abs=1e-5)
        expected = (1 - weight) * float(first.norm()) + weight * float(last.norm())
        assert float(point.norm()) == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(walk[0], first, atol=1e-6) and torch.allclose(walk[-1], last, atol=1e-6)
    # In the plane of its ends.
    plane = torch.linalg.qr(torch.stack([first, last], dim=1).double()).Q
    assert float((walk.double() - walk.double() @ plane @ plane.T).abs().max()) < 1e-5


def test_slerp_of_a_quarter_turn_is_the_circle() -> None:
    weights = torch.tensor([0.0, 1 / 3, 0.5, 1.0], dtype=torch.float64)
    walk = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), weights)
    expected = [[2 * math.cos(w * math.pi / 2), 2 * math.sin(w * math.pi / 2)] for w in weights.tolist()]
    torch.testing.assert_close(walk, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-6, 1e-3])
def test_slerp_of_near_vectors(distance: float) -> None:
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    last = torch.tensor([math.cos(distance), math.sin(distance), 0.0], dtype=torch.float64)
    (middle,) = slerp(first, last, torch.tensor([0.5]))
    expected = torch.tensor([math.cos(distance / 2), math.sin(distance / 2), 0.0], dtype=torch.float64)
    torch.testing.assert_close(middle, expected, atol=1e-12, rtol=0)


def test_slerp_of_what_has_no_way() -> None:
    one = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="opposite"):
        slerp(one, -one, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="zero vector"):
        slerp(one, torch.zeros(2), torch.tensor([0.5]))


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0])
def test_neighbours_are_samples_at_the_distance_asked_for(sigma: float) -> None:
    """Around random codes: still N(0, I), and correlated with their codes by 1 / sqrt(1 + sigma^2)."""
    originals = codes(1, 200, 2 * 50).view(200, 2, 50)
    random = torch.Generator().manual_seed(2)
    around = torch.stack([neighbours(code, 5, sigma, "both", random) for code in originals])
    assert stats.kstest(around[:, 0].flatten().numpy(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(around[:, 3].flatten(), originals.flatten())[0, 1]
    assert correlation == pytest.approx(1 / math.sqrt(1 + sigma**2), abs=0.03)


@pytest.mark.parametrize(
    ("part", "moved"), [("geometry", (True, False)), ("texture", (False, True)), ("both", (True, True))]
)
def test_neighbours_move_the_part_asked_for(part: str, moved: tuple[bool, bool]) -> None:
    code = codes(3)
    around = neighbours(code, 4, 0.3, part, torch.Generator().manual_seed(1))
    for index in (0, 1):
        assert bool((around[:, index] != code[index]).all()) == moved[index]
        assert bool((around[:, index] == code[index]).all()) != moved[index]
    again = neighbours(code, 4, 0.3, part, torch.Generator().manual_seed(1))
    assert torch.equal(around, again)
    assert torch.allclose(neighbours(code, 2, 0.0, part, torch.Generator()), code.expand(2, -1, -1))


def network(classes: int = 0) -> MappingNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MappingNetwork(8, 6, num_layers=2, num_classes=classes).requires_grad_(False)


def test_the_average_of_w() -> None:
    """Against other samples in float64, within the error of the mean; and exactly the same again."""
    mapping = network().double()
    w = mapping(torch.randn(200_000, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64))
    mapping = network()
    average = average_w(mapping, 50_000, seed=1)
    error = w.std(dim=0) / math.sqrt(50_000)
    assert bool(((average - w.mean(dim=0)).abs() < 5 * error + 1e-5).all())
    assert torch.equal(average, average_w(mapping, 50_000, seed=1))
    assert not torch.equal(average, average_w(mapping, 50_000, seed=2))
    assert torch.equal(
        average_w(mapping, 1, 3), mapping(torch.randn(1, 8, generator=torch.Generator().manual_seed(3)))[0]
    )
    with pytest.raises(ValueError, match="at least 1"):
        average_w(mapping, 0)


def test_the_average_of_every_class() -> None:
    mapping = network(classes=3)
    average_KD = average_w(mapping, 30_000)
    assert average_KD.shape == mapping.w_avg.shape == (3, 6)
    for number in range(3):
        z = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(number))
        w = mapping(z, class_B=torch.full((20_000,), number))
        assert torch.allclose(average_KD[number], w.mean(dim=0), atol=6 * float(w.std()) / 100)
