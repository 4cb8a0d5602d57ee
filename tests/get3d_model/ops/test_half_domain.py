"""The half-precision domain: gradients that float16 could not hold, against float64."""

import pytest
import torch

from get3d_model.ops.half_domain import MAX_GRADIENT, MAX_GRADIENT_SUM, HalfDomain, gradient_scale


def network(domain: HalfDomain, weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    h = domain.enter(x)
    for weight in weights:
        h = torch.nn.functional.leaky_relu(h @ domain.enter(weight).T, 0.2)
    return domain.leave(h)[0]


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1e6])
def test_gradients_of_any_size(size: float) -> None:
    """float16 holds 6e-8 to 65504; here a mean over many points, and its opposite."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 16, generator=generator)
    weights = [torch.randn(16, 16, generator=generator) / 4 for _ in range(3)]
    direction = torch.randn(1000, 16, generator=generator) * size
    results = []
    for dtype in (torch.float16, torch.float64):
        parameters = [w.clone().to(torch.float32 if dtype == torch.float16 else dtype) for w in weights]
        for parameter in parameters:
            parameter.requires_grad_(True)
        if dtype == torch.float16:
            out = network(HalfDomain(dtype), parameters, x)
            assert out.dtype == torch.float32
        else:
            h = x.to(dtype)
            for weight in parameters:
                h = torch.nn.functional.leaky_relu(h @ weight.T, 0.2)
            out = h
        (out * direction).sum().backward()
        results.append([p.grad.double() for p in parameters])
    for ours, exact in zip(*results, strict=True):
        # Rounding alone: unscaled, the gradients vanish at one end and overflow at the other.
        assert (ours - exact).norm() < 0.05 * exact.norm()


def test_several_results_share_the_scale() -> None:
    domain = HalfDomain(torch.float16)
    x = torch.ones(3, requires_grad=True)
    h = domain.enter(x)
    first, second = domain.leave(h * 2, h * 3)
    (first * 1e-9 + second * 1e4).sum().backward()
    assert torch.allclose(x.grad, torch.full((3,), 3e4), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_plain_casts(dtype: torch.dtype) -> None:
    domain = HalfDomain(dtype)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert domain.enter(x).dtype == dtype
    (domain.leave(domain.enter(x) * 3)[0]).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0] and domain.scale is None


def test_the_limits() -> None:
    one = torch.zeros(10)
    one[0] = -1e-5
    assert gradient_scale((one,)) * 1e-5 == pytest.approx(MAX_GRADIENT)
    many = torch.full((100_000,), 2.0)
    assert gradient_scale((one, many)) * 2e5 == pytest.approx(MAX_GRADIENT_SUM, rel=1e-4)
    assert gradient_scale((torch.zeros(3),)) == 1.0
    assert gradient_scale((torch.tensor([1.0, float("inf")]),)) == 1.0
    assert gradient_scale((torch.tensor([1.0, float("nan")]),)) == 1.0
