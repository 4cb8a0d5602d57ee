"""The kernels of the activation against the operations that define it: the same bits, derivatives included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from get3d_model.ops import cpu_activation
from get3d_model.ops.activation import bias_leaky_relu


def derivatives(x: Tensor, bias_C: Tensor, clamp: float | None) -> list[Tensor]:
    """Result, gradients, and the gradient of a gradient, as R1 takes it."""
    x, bias_C = x.clone().requires_grad_(), bias_C.clone().requires_grad_()
    out = bias_leaky_relu(x, bias_C, channel_dim=1, clamp=clamp)
    torch.manual_seed(1)
    grad, probe = torch.randn_like(out).requires_grad_(), torch.randn_like(x)
    grad_x, grad_bias = torch.autograd.grad(out, (x, bias_C), grad, create_graph=True)
    (second,) = torch.autograd.grad(grad_x, grad, probe)
    return [out.detach(), grad_x.detach(), grad_bias.detach(), second]


@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("shape", [(3, 5, 70, 67), (2, 48, 19, 37), (2, 7, 5000)])
def test_bits_are_those_of_the_composition(
    shape: tuple[int, ...], clamp: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x, bias_C = torch.randn(shape), torch.randn(shape[1])
    x.view(-1)[:6] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e38])
    assert cpu_activation.takes(x.clone().requires_grad_(), bias_C, 1)
    ours = derivatives(x, bias_C, clamp)
    monkeypatch.setattr(cpu_activation, "takes", lambda *_: False)
    for mine, theirs in zip(ours, derivatives(x, bias_C, clamp), strict=True):
        assert torch.equal(mine.nan_to_num(7.0), theirs.nan_to_num(7.0))


def test_frozen_weights_and_frozen_images() -> None:
    """Each of the two may be without a gradient."""
    x, bias_C = torch.randn(2, 8, 80, 80), torch.randn(8)
    (of_bias,) = torch.autograd.grad(
        bias_leaky_relu(x, bias_C.requires_grad_(), 1).sum(), bias_C, retain_graph=True
    )
    (of_x,) = torch.autograd.grad(bias_leaky_relu(x.requires_grad_(), bias_C.detach(), 1).sum(), x)
    assert of_bias.shape == (8,) and of_x.shape == x.shape
    torch.testing.assert_close(of_x.sum(dim=(0, 2, 3)), of_bias)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 8, 8, 8),
        torch.randn(2, 8, 80, 80).to(memory_format=torch.channels_last),
        torch.randn(2, 8, 80, 80).double(),
        torch.randn(2, 8, 80, 80).bfloat16(),
    ],
)
def test_everything_else_is_composed(x: Tensor) -> None:
    bias_C = torch.randn(8, dtype=x.dtype)
    assert not cpu_activation.takes(x.requires_grad_(), bias_C, 1)


def test_nothing_of_it_is_in_what_is_exported() -> None:
    x, bias_C = torch.randn(2, 8, 80, 80), torch.randn(8)
    with torch.no_grad():
        assert not cpu_activation.takes(x.requires_grad_(), bias_C, 1)
