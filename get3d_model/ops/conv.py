"""Convolution whose second derivative is made of ordinary convolutions.

R1 differentiates the gradient with respect to the image once more. PyTorch's own second derivative of a
convolution transposes batch and channels, which is several times slower on a GPU than the three convolutions
(forward, input gradient, weight gradient) it can be written with.

Shape legend: B batch, I input channels, O output channels, K kernel size, H W size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_weight_gradients = True


@contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Backward passes inside the block leave out gradients of convolution weights and biases.

    For `torch.autograd.grad(..., images, create_graph=True)`: autograd calls a custom function's backward for
    all of its inputs, and these would be thrown away.
    """
    global _weight_gradients
    _weight_gradients = False
    try:
        yield
    finally:
        _weight_gradients = True


def weight_gradients_wanted() -> bool:
    return _weight_gradients


def conv2d(
    x_BIHW: Tensor,
    weight_OIKK: Tensor,
    stride: int = 1,
    padding: int = 0,
    remake_input: Callable[[], Tensor] | None = None,
) -> Tensor:
    """F.conv2d without bias, twice differentiable.

    remake_input: makes the input again, for the weight's gradient, from what is kept anyway; then the input itself
    is not kept (CUDA only). Called without gradients.
    """
    if not x_BIHW.is_cuda:
        return F.conv2d(x_BIHW, weight_OIKK, stride=stride, padding=padding)
    return _Conv2d.apply(x_BIHW, weight_OIKK, stride, padding, remake_input)


def conv_transpose2d_2x(x_BIHW: Tensor, weight_OIKK: Tensor) -> Tensor:
    """Transposed convolution of stride 2; BO(2H+1)(2W+1) for 3x3 kernels."""
    return F.conv_transpose2d(x_BIHW, weight_OIKK.transpose(0, 1), stride=2)


def _derivative(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """(gradient of the input, gradient of the weight)."""
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [*wanted, False]
    )
    return grad_x, grad_weight


class _Conv2d(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int, padding: int, remake_input) -> Tensor:
        # The input is kept for the weight's gradient alone.
        keep = ctx.needs_input_grad[1] and remake_input is None
        ctx.remake_input = remake_input
        ctx.save_for_backward(x if keep else None, weight)
        ctx.geometry, ctx.shape = (stride, padding), x.shape
        return F.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad_x = _InputGradient.apply(grad, weight, ctx.shape, *ctx.geometry) if need_x else None
        grad_weight = None
        if need_weight and _weight_gradients:
            if x is None:
                with torch.no_grad():
                    x = ctx.remake_input()
            _, grad_weight = _derivative(grad, x, weight, *ctx.geometry, (False, True))
        return grad_x, grad_weight, None, None, None


class _InputGradient(Function):
    @staticmethod
    def forward(ctx, grad: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.geometry = (stride, padding)
        # Of the input only shape, type and layout matter here; the memory is given back at once.
        like = torch.empty(shape, device=grad.device, dtype=grad.dtype, memory_format=torch.channels_last)
        grad_x, _ = _derivative(grad, like, weight, stride, padding, (True, False))
        return grad_x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_grad: Tensor):
        grad, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        need_grad, need_weight = ctx.needs_input_grad[:2]
        out = F.conv2d(grad_grad, weight, stride=stride, padding=padding) if need_grad else None
        grad_weight = None
        if need_weight:
            _, grad_weight = _derivative(grad, grad_grad, weight, stride, padding, (False, True))
        return out, grad_weight, None, None, None
