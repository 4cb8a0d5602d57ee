"""A part of the graph in half precision, with a gradient scale of its own.

float16 has the mantissa that a surface needs (bfloat16 moves it by a seventh of a grid cell, see `VolumeField`),
but not the range of its gradients: those of the regularisers, means over tens of thousands of edges, vanish below
it. So the gradients that flow back into the domain are multiplied there, and divided where they leave it again
towards float32 weights. The scale is taken anew from the gradients of every backward pass: it is a tensor, and
nothing waits for the device.

Source: loss scaling, Micikevicius et al. 2018 ("Mixed Precision Training"), section 3.2, confined to a subgraph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_GRADIENT = 64.0
"""Largest scaled gradient of one output value."""
MAX_GRADIENT_SUM = 8192.0
"""Largest sum of scaled gradients over all output values: a weight's gradient is a sum over points times
activations of order one, and must stay below 65504."""


class HalfDomain:
    """`enter` brings float32 tensors in, `leave` takes the results out, once per forward pass.

    Everything that enters must be upstream of what leaves. Plain casts for types other than float16.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.scale: Tensor | None = None

    def enter(self, x: Tensor) -> Tensor:
        """x in the domain's type."""
        return _Enter.apply(x, self) if self.dtype == torch.float16 else x.to(self.dtype)

    def watch(self, x: Tensor) -> Tensor:
        """x as it is, for an operation inside that takes float32 beside tensors of the domain's type."""
        return _Watch.apply(x, self) if self.dtype == torch.float16 else x

    def leave(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs in float32."""
        if self.dtype != torch.float16:
            return tuple(x.float() for x in outputs)
        return _Leave.apply(self, *outputs)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, domain: HalfDomain) -> Tensor:
        ctx.domain, ctx.dtype = domain, x.dtype
        return x.to(domain.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype) / ctx.domain.scale, None


class _Watch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, domain: HalfDomain) -> Tensor:
        ctx.domain = domain
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.domain.scale, None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, domain: HalfDomain, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.domain = domain
        return tuple(x.float() for x in outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.domain.scale = gradient_scale(grads)
        return None, *((g * ctx.domain.scale).to(ctx.domain.dtype) for g in grads)


def gradient_scale(grads: tuple[Tensor, ...]) -> Tensor:
    """The factor that brings gradients to the limits above; 1 where all are zero or one is not finite."""
    # Norms read every gradient once and write nothing.
    largest = torch.stack([torch.linalg.vector_norm(g, torch.inf) for g in grads]).amax()
    total = torch.stack([torch.linalg.vector_norm(g, 1) for g in grads]).sum()
    scale = torch.minimum(MAX_GRADIENT / largest, MAX_GRADIENT_SUM / total)
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
