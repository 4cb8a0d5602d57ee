"""The fused steps of the discriminators against their definitions."""

import torch
import torch.nn.functional as F

from get3d_model.ops.activation import activated_low_pass
from get3d_model.ops.from_rgb import PendingActivation, add_from_rgb


def test_activated_low_pass_is_activation_then_filter():
    x, bias = torch.randn(2, 3, 6, 5), torch.randn(3)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    activated = (F.leaky_relu(x + bias[:, None, None], 0.2) * 2**0.5).clamp(-0.5 * 2**0.5, 0.5 * 2**0.5)
    expected = F.conv2d(F.pad(activated, (2, 2, 2, 2)), kernel, groups=3)
    out = activated_low_pass(x, bias, clamp=0.5)
    assert out.shape == (2, 3, 7, 6)
    assert torch.allclose(out, expected, atol=1e-6)


def test_image_enters_beside_what_is_pending():
    image, weight, bias = torch.randn(2, 3, 4, 4), torch.randn(5, 3), torch.randn(5)
    below = PendingActivation(torch.randn(2, 5, 4, 4), torch.randn(5), None)
    alone = add_from_rgb(None, image, weight, bias, None, torch.float32)
    expected = F.leaky_relu(torch.einsum("bkhw,ck->bchw", image, weight) + bias[:, None, None], 0.2) * 2**0.5
    assert torch.allclose(alone, expected, atol=1e-5)
    pending = F.leaky_relu(below.raw_BCHW + below.bias_C[:, None, None], 0.2) * 2**0.5
    both = add_from_rgb(below, image, weight, bias, None, torch.float32)
    assert torch.allclose(both, expected + pending, atol=1e-5)
