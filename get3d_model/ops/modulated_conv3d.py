"""Style-modulated 3-D convolution.

Source: StyleGAN2 (Karras et al. 2020), section 2.2, in three dimensions as in GET3D (Gao et al. 2022), appendix.

Shape legend: B batch, I input channels, O output channels, K kernel size, D H W volume size
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.modulated_conv import demodulation


def modulated_conv3d(x_BIDHW: Tensor, weight_OIKKK: Tensor, style_BI: Tensor) -> Tensor:
    """Modulated, demodulated 'same' convolution; returns BODHW.

    Input channels are scaled by the style and output channels by the demodulation factor, so that the whole batch
    is one ordinary convolution.
    """
    x = x_BIDHW * style_BI.to(x_BIDHW.dtype)[:, :, None, None, None]
    out = F.conv3d(x, weight_OIKKK.to(x.dtype), padding=weight_OIKKK.shape[-1] // 2)
    return out * demodulation(weight_OIKKK, style_BI).to(out.dtype)[:, :, None, None, None]
