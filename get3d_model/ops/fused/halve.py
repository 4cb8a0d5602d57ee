"""Low-passed halving of an image pyramid, and its transpose. Linear, so each is the derivative of the other.

Shape legend: N image planes (batch and channels), H W input size of the halving
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from get3d_model.ops.fused.common import cdiv

BLOCK = 256


@triton.jit
def _halve_kernel(image, out, H, W, BLOCK_: tl.constexpr):
    """out[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8 on both axes, zeros outside."""
    h, w = H // 2, W // 2
    plane = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_ + tl.arange(0, BLOCK_)
    row, column = pixel // w, pixel % w
    value = tl.zeros((BLOCK_,), tl.float32)
    for i in tl.static_range(4):
        for j in tl.static_range(4):
            r, c = 2 * row - 1 + i, 2 * column - 1 + j
            weight = (3.0 if (i == 1 or i == 2) else 1.0) * (3.0 if (j == 1 or j == 2) else 1.0) / 64.0
            inside = (pixel < h * w) & (r >= 0) & (r < H) & (c >= 0) & (c < W)
            value += tl.load(image + plane * H * W + r * W + c, mask=inside, other=0.0) * weight
    tl.store(out + plane * h * w + pixel, value, mask=pixel < h * w)


@triton.jit
def _transpose_kernel(grad, out, H, W, BLOCK_: tl.constexpr):
    """Every input pixel collects the outputs that read it: the near one with 3/8, the far one with 1/8."""
    h, w = H // 2, W // 2
    plane = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_ + tl.arange(0, BLOCK_)
    row, column = pixel // W, pixel % W
    near_r, near_c = row // 2, column // 2
    far_r, far_c = near_r + (row % 2) * 2 - 1, near_c + (column % 2) * 2 - 1
    value = tl.zeros((BLOCK_,), tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            r = near_r if i == 0 else far_r
            c = near_c if j == 0 else far_c
            weight = (3.0 if i == 0 else 1.0) * (3.0 if j == 0 else 1.0) / 64.0
            inside = (pixel < H * W) & (r >= 0) & (r < h) & (c >= 0) & (c < w)
            value += tl.load(grad + plane * h * w + r * w + c, mask=inside, other=0.0) * weight
    tl.store(out + plane * H * W + pixel, value, mask=pixel < H * W)


class Halve(Function):
    """BCHW -> BC(H/2)(W/2), float32."""

    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        image = image.contiguous()
        batch, channels, height, width = image.shape
        out = torch.empty((batch, channels, height // 2, width // 2), device=image.device, dtype=image.dtype)
        _halve_kernel[(cdiv(height * width // 4, BLOCK), batch * channels)](
            image, out, height, width, BLOCK_=BLOCK
        )
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        return HalveTransposed.apply(grad)


class HalveTransposed(Function):
    """BChw -> BC(2h)(2w), the transpose of `Halve`."""

    @staticmethod
    def forward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        batch, channels, height, width = grad.shape[0], grad.shape[1], 2 * grad.shape[2], 2 * grad.shape[3]
        out = torch.empty((batch, channels, height, width), device=grad.device, dtype=grad.dtype)
        _transpose_kernel[(cdiv(height * width, BLOCK), batch * channels)](
            grad, out, height, width, BLOCK_=BLOCK
        )
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        return Halve.apply(grad)
