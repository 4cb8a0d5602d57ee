"""Losses against their formulas."""

import math

import pytest
import torch

from get3d_model.losses.adversarial import (
    discriminator_logistic_fake,
    discriminator_logistic_real,
    generator_logistic,
    r1_penalty,
)
from get3d_model.losses.sdf import sdf_sign_cross_entropy


def test_logistic_losses():
    logits = torch.tensor([[-2.0], [0.0], [3.0]])
    sigmoid = torch.sigmoid(logits)
    assert torch.allclose(generator_logistic(logits), -torch.log(sigmoid))
    assert torch.allclose(discriminator_logistic_real(logits), -torch.log(sigmoid))
    assert torch.allclose(discriminator_logistic_fake(logits), -torch.log(1 - sigmoid))


def test_r1_of_a_linear_score_is_its_squared_weight_and_can_be_minimised():
    weight = torch.tensor([1.0, 2.0, -2.0], requires_grad=True)
    images = torch.randn(2, 3, 1, 1, requires_grad=True)
    penalty = r1_penalty(((images * weight.view(1, 3, 1, 1)).sum(dim=1).flatten(1),), images)
    assert torch.allclose(penalty, torch.tensor([9.0, 9.0]))
    penalty.mean().backward()
    assert torch.allclose(weight.grad, 2 * weight)


def test_sdf_cross_entropy_counts_crossed_edges_only():
    edges = torch.tensor([[0, 1], [1, 2], [2, 3]])
    sdf = torch.tensor([[1.0, -2.0, -3.0, 0.5]])
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    first = softplus(1.0) + softplus(2.0)  # logit 1 told "negative", logit -2 told "positive"
    second = softplus(3.0) + softplus(0.5)
    assert float(sdf_sign_cross_entropy(sdf, edges)) == pytest.approx((first + second) / 2, rel=1e-6)


def test_sdf_cross_entropy_without_crossings_is_zero():
    sdf = torch.ones(2, 4, requires_grad=True)
    loss = sdf_sign_cross_entropy(sdf, torch.tensor([[0, 1], [2, 3]]))
    loss.backward()
    assert loss.item() == 0 and float(sdf.grad.abs().sum()) == 0
