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

NARROW = 32
"""Channels up to which the weight's gradient is taken for pairs of columns."""
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


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of the weight, OIKK."""
    narrow = weight.shape[0] == weight.shape[1] <= NARROW and weight.shape[2] == 3
    if narrow and stride == padding == 1 and x.shape[3] % 2 == 0 and x.dtype != torch.float32:
        return paired_weight_gradient(grad, x, weight)
    return _derivative(grad, x, weight, stride, padding, (False, True))[1]


def paired_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The same for a 3x3 'same' convolution with few channels, with two neighbouring columns as twice the channels.

    cuDNN's kernel for the sum over a million pixels into 32 x 32 channels does 128 TFLOP/s on an H200, that for 64 x 64
    does 470: twice the arithmetic takes less time. In the channels-last layout the pairs are a view.
    """
    outputs, inputs = weight.shape[:2]
    grad, x = _column_pairs(grad), _column_pairs(x)
    # Of this one only the shape matters.
    wide = weight.new_empty(2 * outputs, 2 * inputs, 3, 3)
    _, paired = _derivative(grad, x, wide, 1, 1, (False, True))
    # [column of the output, O, column of the input, I, row, pair]
    paired = paired.reshape(2, outputs, 2, inputs, 3, 3)
    if paired.dtype != torch.float64:
        paired = paired.float()
    left = paired[0, :, 1, :, :, 0] + paired[1, :, 0, :, :, 1]
    same = paired[0, :, 0, :, :, 1] + paired[1, :, 1, :, :, 1]
    right = paired[0, :, 1, :, :, 1] + paired[1, :, 0, :, :, 2]
    return torch.stack([left, same, right], dim=3).to(weight.dtype)


def _column_pairs(x_BCHW: Tensor) -> Tensor:
    """B(2C)H(W/2)."""
    return x_BCHW.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).flatten(3).permute(0, 3, 1, 2)


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
            grad_weight = weight_gradient(grad, x, weight, *ctx.geometry)
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
            grad_weight = weight_gradient(grad, grad_grad, weight, stride, padding)
        return out, grad_weight, None, None, None
