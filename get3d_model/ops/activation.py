"""Bias, leaky ReLU and gain in one step.

Source: StyleGAN2 (Karras et al. 2020): leaky ReLU with slope 0.2, output scaled by sqrt(2) to keep unit variance.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

LEAKY_SLOPE = 0.2
LEAKY_GAIN = math.sqrt(2.0)


def bias_leaky_relu(x: Tensor, bias_C: Tensor, channel_dim: int, clamp: float | None = None) -> Tensor:
    """leaky_relu(x + bias) * sqrt(2), clamped to +-clamp * sqrt(2) where half precision needs a bound."""
    shape = [1] * x.ndim
    shape[channel_dim] = -1
    out = F.leaky_relu(x + bias_C.to(x.dtype).view(shape), LEAKY_SLOPE) * LEAKY_GAIN
    return out if clamp is None else out.clamp(-clamp * LEAKY_GAIN, clamp * LEAKY_GAIN)
