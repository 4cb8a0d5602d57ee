"""Style-modulated 3-D convolution.

Source: StyleGAN2 (Karras et al. 2020), section 2.2, in three dimensions as in GET3D (Gao et al. 2022), appendix.

Shape legend: B batch, I input channels, O output channels, K kernel size, D H W volume size
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.dispatch import is_fused
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
    gain = 1.0 / math.sqrt(weight_OIKKK[0].numel())
    style = style_BI / style_BI.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    scale_BO = demodulation(weight_OIKKK, style, gain)
    weight, padding = half.enter(weight_OIKKK * gain), weight_OIKKK.shape[-1] // 2
    if is_fused(x_BIDHW):
        from get3d_model.ops.fused.synthesis import ScaleChannels, SynthesisEpilogue

        # For these kernels a volume is an image whose rows are the rows of all its slices.
        depth = x_BIDHW.shape[2]
        x = ScaleChannels.apply(x_BIDHW.flatten(2, 3), half.watch(style)).unflatten(2, (depth, -1))
        out = F.conv3d(x, weight, padding=padding).flatten(2, 3)
        out = SynthesisEpilogue.apply(out, half.watch(scale_BO), None, None, half.watch(bias_O), None, False)
        return out.unflatten(2, (depth, -1))
    x = x_BIDHW * half.enter(style)[:, :, None, None, None]
    out = torch.addcmul(
        half.enter(bias_O * LEAKY_GAIN)[:, None, None, None],
        F.conv3d(x, weight, padding=padding),
        half.enter(scale_BO * LEAKY_GAIN)[:, :, None, None, None],
    )
    # The gain is in scale and bias: leaky_relu(g x) = g leaky_relu(x) for g > 0.
    return F.leaky_relu_(out, LEAKY_SLOPE)
