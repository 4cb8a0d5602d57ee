"""Equalised weights ready for a convolution: scaled, in the activations' type and layout, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from get3d_model.ops.dispatch import is_fused


def scaled_weight(weight_OIKK: Tensor, gain: float, dtype: torch.dtype) -> Tensor:
    """(weight * gain).to(dtype); channels-last on CUDA."""
    if not is_fused(weight_OIKK):
        return (weight_OIKK * gain).to(dtype) if gain != 1.0 else weight_OIKK.to(dtype)
    return _ScaledWeight.apply(weight_OIKK, gain, dtype)


class _ScaledWeight(Function):
    @staticmethod
    def forward(ctx, weight: Tensor, gain: float, dtype: torch.dtype) -> Tensor:
        ctx.gain, ctx.dtype = gain, weight.dtype
        if weight.is_contiguous():
            from get3d_model.ops.fused.weight_layout import weight_to_channels_last

            return weight_to_channels_last(weight, gain, dtype)
        out = torch.empty(weight.shape, device=weight.device, dtype=dtype, memory_format=torch.channels_last)
        return torch.mul(weight, gain, out=out)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _ScaledWeightGrad.apply(grad, ctx.gain, ctx.dtype), None, None


class _ScaledWeightGrad(Function):
    @staticmethod
    def forward(ctx, grad: Tensor, gain: float, dtype: torch.dtype) -> Tensor:
        ctx.gain, ctx.dtype = gain, grad.dtype
        if grad.is_contiguous(memory_format=torch.channels_last):
            from get3d_model.ops.fused.weight_layout import weight_from_channels_last

            return weight_from_channels_last(grad, gain, dtype)
        return torch.mul(grad, gain, out=torch.empty(grad.shape, device=grad.device, dtype=dtype))

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _ScaledWeight.apply(grad, ctx.gain, ctx.dtype), None, None
