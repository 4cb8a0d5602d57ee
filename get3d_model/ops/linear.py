"""The equalised fully connected layer.

Source: equalised learning rate, Karras et al. 2018 (ProGAN), section 4.1.

Shape legend: R rows, I input channels, O output channels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.dispatch import is_fused
from get3d_model.ops.leaky import LEAKY_SLOPE


def equalized_linear(
    x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor, weight_gain: float, bias_gain: float, activate: bool
) -> Tensor:
    """weight_gain * x weight^T + bias_gain * bias, with leaky ReLU (without a gain of its own) where asked for; RO."""
    if is_fused(x_RI):
        from get3d_model.ops.fused.few_rows import is_small
        from get3d_model.ops.fused.linear import FewRowsLinear

        if is_small(x_RI) and weight_OI.is_contiguous():
            return FewRowsLinear.apply(x_RI, weight_OI, bias_O, weight_gain, bias_gain, activate)
    dtype = x_RI.dtype
    out_RO = torch.addmm(bias_O.to(dtype), x_RI, weight_OI.to(dtype).T, beta=bias_gain, alpha=weight_gain)
    return F.leaky_relu(out_RO, LEAKY_SLOPE) if activate else out_RO
