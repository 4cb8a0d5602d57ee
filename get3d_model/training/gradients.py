"""Gradients of one phase: averaged over the processes of a run, made finite, and measured.

Nothing here waits for the device: the figures stay tensors until somebody logs them.

Shape legend: P parameter values of a network
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from get3d_model.ops.finite import make_finite
from get3d_model.training.distributed import World


@dataclass(frozen=True)
class GradientFigures:
    """Scalars on the device. norm: L2 norm of what the optimizer is given. replaced: values that were not finite."""

    norm: Tensor
    replaced: Tensor


def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> GradientFigures:
    """Averages gradients over all ranks and replaces non-finite values, in place.

    NaN becomes 0 and infinities +-1e5 (the published rule), so that one bad pixel does not end a run.
    Of several ranks they become views of one flat buffer: a single all-reduce. Parameters without a gradient are
    left out, the same ones on every rank: which layers a phase reaches does not depend on the data.
    """
    owners = [p for p in parameters if p.grad is not None]
    if not owners:
        return GradientFigures(torch.zeros(()), torch.zeros(()))
    if world.size > 1:
        flat_P = torch.cat([p.grad.flatten() for p in owners])
        world.average(flat_P, "the gradients")
        for parameter, part in zip(owners, flat_P.split([p.numel() for p in owners]), strict=True):
            parameter.grad = part.view_as(parameter)
        return GradientFigures(*make_finite([flat_P]))
    for parameter in owners:
        # Convolutions leave gradients in a layout of their own; the fused optimizer wants the parameter's.
        if parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(parameter.grad)
    return GradientFigures(*make_finite([p.grad for p in owners]))
