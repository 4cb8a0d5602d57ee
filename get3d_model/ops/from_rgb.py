"""How the image of each resolution enters a discriminator.

Source: the skip architecture of StyleGAN2 (Karras et al. 2020), section 4.1, figure 7.

Shape legend: B batch, K image channels, C channels, H W size
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.activation import bias_leaky_relu
from get3d_model.ops.dispatch import is_fused


@dataclass(frozen=True)
class PendingActivation:
    """A convolution's raw output with the bias and activation that its reader has still to apply."""

    raw_BCHW: Tensor
    bias_C: Tensor
    clamp: float | None


def add_from_rgb(
    below: PendingActivation | None,
    image_BKHW: Tensor,
    weight_CK: Tensor,
    bias_C: Tensor,
    clamp: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """act(below) + act(image * weight + bias), BCHW of type `dtype`; weight_CK carries its gain."""
    if is_fused(image_BKHW):
        from get3d_model.ops.fused.from_rgb import AddFromRgb

        raw, raw_bias, raw_clamp = (None, None, None)
        if below is not None:
            raw, raw_bias, raw_clamp = below.raw_BCHW, below.bias_C, below.clamp
        return AddFromRgb.apply(raw, raw_bias, image_BKHW, weight_CK, bias_C, raw_clamp, clamp, dtype)
    features = F.conv2d(image_BKHW.to(dtype), weight_CK.to(dtype)[:, :, None, None])
    features = bias_leaky_relu(features, bias_C, channel_dim=1, clamp=clamp)
    if below is None:
        return features
    x = bias_leaky_relu(below.raw_BCHW, below.bias_C, channel_dim=1, clamp=below.clamp)
    return x.to(dtype) + features
