"""Bias, leaky ReLU and gain in one step.

Source: StyleGAN2 (Karras et al. 2020): leaky ReLU with slope 0.2, output scaled by sqrt(2) to keep unit variance.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops import cpu_activation
from get3d_model.ops.dispatch import is_fused
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.ops.resample import low_pass


def bias_leaky_relu(x: Tensor, bias_C: Tensor, channel_dim: int, clamp: float | None = None) -> Tensor:
    """leaky_relu(x + bias) * sqrt(2), clamped to +-clamp * sqrt(2) where half precision needs a bound."""
    if cpu_activation.takes(x, bias_C, channel_dim):
        return cpu_activation.BiasLeakyRelu.apply(x, bias_C, clamp)
    shape = [1] * x.ndim
    shape[channel_dim] = -1
    out = F.leaky_relu(x + bias_C.to(x.dtype).view(shape), LEAKY_SLOPE) * LEAKY_GAIN
    return out if clamp is None else out.clamp(-clamp * LEAKY_GAIN, clamp * LEAKY_GAIN)


def activated_low_pass(x_BCHW: Tensor, bias_C: Tensor, clamp: float | None = None) -> Tensor:
    """`bias_leaky_relu`, then the low-pass filter with padding 2; BC(H+1)(W+1). What a stride-2 convolution reads."""
    if is_fused(x_BCHW):
        from get3d_model.ops.fused.low_pass import ActivatedLowPass

        return ActivatedLowPass.apply(x_BCHW, bias_C, clamp)
    return low_pass(bias_leaky_relu(x_BCHW, bias_C, channel_dim=1, clamp=clamp), padding=2)
