"""Adversarial losses: pure functions of logits and images, unweighted.

Source: non-saturating logistic loss, Goodfellow et al. 2014; R1, Mescheder et al. 2018, eq. 9.

Shape legend: B batch, C channels, H W size
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.conv import no_weight_gradients


def generator_logistic(fake_logits_B1: Tensor) -> Tensor:
    """softplus(-D(G(z))) per sample, B1."""
    return F.softplus(-fake_logits_B1)


def discriminator_logistic_fake(fake_logits_B1: Tensor) -> Tensor:
    """softplus(D(G(z))) per sample, B1."""
    return F.softplus(fake_logits_B1)


def discriminator_logistic_real(real_logits_B1: Tensor) -> Tensor:
    """softplus(-D(x)) per sample, B1."""
    return F.softplus(-real_logits_B1)


def image_gradient(logits: tuple[Tensor, ...], images_BCHW: Tensor) -> Tensor:
    """Gradient of the sum of all logits with respect to the images, BCHW, itself differentiable."""
    total = sum(item.sum() for item in logits)
    with no_weight_gradients():
        (gradient_BCHW,) = torch.autograd.grad(total, images_BCHW, create_graph=True)
    return gradient_BCHW


def r1_penalty(logits: tuple[Tensor, ...], images_BCHW: Tensor) -> Tensor:
    """Squared norm of the image gradient per sample, B. The weight gamma / 2 is the trainer's."""
    return image_gradient(logits, images_BCHW).square().sum(dim=(1, 2, 3))
