"""Style-modulated 3-D convolution.

Source: StyleGAN2 (Karras et al. 2020), section 2.2, in three dimensions as in GET3D (Gao et al. 2022), appendix.

Shape legend: B batch, I input channels, O output channels, K kernel size, D H W volume size
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.ops.modulated_conv import demodulation


def modulated_conv3d(
    x_BIDHW: Tensor, weight_OIKKK: Tensor, style_BI: Tensor, bias_O: Tensor, half: HalfDomain
) -> Tensor:
    """Modulated, demodulated 'same' convolution, bias and leaky ReLU with gain sqrt(2); returns BODHW.

    x is in the domain `half`, all else in float32. Input channels are scaled by the style and output channels by the
    demodulation factor, so that the whole batch is one ordinary convolution. Weight and style are brought to unit
    scale first, which the demodulation takes back, so that nothing overflows between.
    """
    weight = weight_OIKKK / math.sqrt(weight_OIKKK[0].numel())
    style = style_BI / style_BI.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    scale_BO = demodulation(weight, style) * LEAKY_GAIN
    x = x_BIDHW * half.enter(style)[:, :, None, None, None]
    out = F.conv3d(x, half.enter(weight), padding=weight.shape[-1] // 2)
    out = torch.addcmul(
        half.enter(bias_O * LEAKY_GAIN)[:, None, None, None],
        out,
        half.enter(scale_BO)[:, :, None, None, None],
    )
    # The gain is in scale and bias: leaky_relu(g x) = g leaky_relu(x) for g > 0.
    return F.leaky_relu_(out, LEAKY_SLOPE)
