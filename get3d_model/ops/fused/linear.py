"""The equalised fully connected layer of a few rows: one launch forwards, two backwards.

Shape legend: R rows, I input channels, O output channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from get3d_model.ops.fused.few_rows import outer_product, times_weight
from get3d_model.ops.leaky import LEAKY_SLOPE


class FewRowsLinear(Function):
    """activation(weight_gain * x_RI weight_OI^T + bias_gain * bias_O), RO; float32, differentiable twice."""

    @staticmethod
    def forward(
        ctx: Any, x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor, weight_gain: float, bias_gain: float, active: bool
    ) -> Tensor:  # fmt: skip
        out_RO = x_RI.new_empty(len(x_RI), len(weight_OI))
        after = "activation" if active else "bias"
        times_weight(x_RI, weight_OI, out_RO, "nothing", after, weight_gain, bias_gain, bias_O=bias_O)
        ctx.save_for_backward(x_RI, weight_OI, out_RO if active else None)
        ctx.gains, ctx.active = (weight_gain, bias_gain), active
        return out_RO

    @staticmethod
    def backward(ctx: Any, grad_RO: Tensor):
        x_RI, weight_OI, out_RO = ctx.saved_tensors
        weight_gain, bias_gain = ctx.gains
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            # Somebody differentiates once more (R1): let autograd see what is computed.
            if ctx.active:
                grad_RO = grad_RO * torch.where(out_RO.detach() > 0, 1.0, LEAKY_SLOPE)
            return (
                grad_RO @ weight_OI * weight_gain if needs_x else None,
                grad_RO.T @ x_RI * weight_gain if needs_weight else None,
                grad_RO.sum(dim=0) * bias_gain if needs_bias else None,
                None, None, None,
            )  # fmt: skip
        grad_RO = grad_RO.contiguous()
        before = "slope" if ctx.active else "nothing"
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = grad_RO.new_empty(x_RI.shape)
            times_weight(grad_RO, weight_OI.T, grad_x, before, "nothing", weight_gain, gate_RI=out_RO)
        if needs_weight or needs_bias:
            grad_weight, grad_bias = torch.empty_like(weight_OI), grad_RO.new_empty(len(weight_OI))
            outer_product(grad_RO, x_RI, grad_weight, before, weight_gain, out_RO, grad_bias, bias_gain)
        return grad_x, grad_weight, grad_bias, None, None, None
