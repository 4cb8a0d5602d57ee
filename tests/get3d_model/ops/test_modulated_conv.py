"""Modulated layers against the definition: modulate and demodulate the weight of every sample."""

import torch
import torch.nn.functional as F

from get3d_model.ops.modulated_conv import (
    demodulation,
    modulated_conv2d,
    modulated_conv2d_up,
    modulated_linear,
)
from get3d_model.ops.resample import low_pass


def modulated_weights(weight, style):
    scaled = weight[None] * style[:, None, :, None, None]
    return scaled / (scaled.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()


def test_modulated_conv_matches_per_sample_weights():
    x, weight, style = torch.randn(3, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.randn(3, 4)
    expected = [F.conv2d(x[b : b + 1], w, padding=1) for b, w in enumerate(modulated_weights(weight, style))]
    assert torch.allclose(modulated_conv2d(x, weight, style), torch.cat(expected), atol=1e-5)


def test_upsampling_conv_is_transposed_conv_then_low_pass():
    x, weight, style = torch.randn(2, 4, 5, 7), torch.randn(3, 4, 3, 3), torch.randn(2, 4)
    expected = []
    for b, w in enumerate(modulated_weights(weight, style)):
        doubled = F.conv_transpose2d(x[b : b + 1], w.transpose(0, 1), stride=2)
        expected.append(low_pass(doubled, padding=1, gain=4.0))
    ours = modulated_conv2d_up(x, weight, style)
    assert ours.shape == (2, 3, 10, 14)
    assert torch.allclose(ours, torch.cat(expected), atol=1e-5)


def test_demodulated_output_filters_have_unit_norm():
    weight, style = torch.randn(6, 4, 3, 3), torch.randn(2, 4)
    norms = (weight[None] * style[:, None, :, None, None]).square().sum(dim=(2, 3, 4)).sqrt()
    assert torch.allclose(norms * demodulation(weight, style), torch.ones(2, 6), atol=1e-5)


def test_modulated_linear_matches_per_sample_weights():
    x, weight, style = torch.randn(2, 4, 9), torch.randn(5, 4), torch.randn(2, 4)
    scaled = weight[None] * style[:, None]
    scaled = scaled / (scaled.square().sum(dim=2, keepdim=True) + 1e-8).sqrt()
    assert torch.allclose(modulated_linear(x, weight, style), scaled @ x, atol=1e-5)
