"""Pieces shared by the kernels: the activation and its derivative, launch sizes.

Shape legend: P pixels or points, C channels
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE

GAIN = tl.constexpr(LEAKY_GAIN)
SLOPE = tl.constexpr(LEAKY_SLOPE)
NO_CLAMP = 3.0e38
"""Stands for "no bound": larger than any activation."""


@triton.jit
def activate(v, limit):
    """leaky_relu(v) * sqrt(2), bounded by +-limit."""
    y = tl.maximum(v, v * SLOPE) * GAIN
    return tl.minimum(tl.maximum(y, -limit), limit)


@triton.jit
def times_slope(value, v, limit, CLAMP: tl.constexpr):
    """value times the derivative of `activate` at v; without CLAMP the limit is out of reach."""
    slope = tl.where(v > 0, GAIN, GAIN * SLOPE)
    if CLAMP:
        # The bounds of v are the same for all values: two comparisons are all that is left.
        slope = tl.where((v < limit / GAIN) & (v > limit / (-GAIN * SLOPE)), slope, 0.0)
    return value * slope


@triton.jit
def activation_slope(v, limit):
    """Derivative of `activate` at v: 0 where it is bounded."""
    slope = tl.where(v > 0, GAIN, GAIN * SLOPE)
    return tl.where(tl.abs(v) * slope < limit, slope, 0.0)


def limit_of(clamp: float | None) -> float:
    return NO_CLAMP if clamp is None else clamp * LEAKY_GAIN


def channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.contiguous(memory_format=torch.channels_last)


def empty_nhwc(batch: int, channels: int, height: int, width: int, like: Tensor, dtype=None) -> Tensor:
    """An uninitialised channels-last BCHW tensor."""
    return torch.empty(
        (batch, channels, height, width),
        device=like.device,
        dtype=dtype or like.dtype,
        memory_format=torch.channels_last,
    )


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def programs_for(work: int, device: torch.device, per_sm: int = 8) -> int:
    """How many programs share `work` blocks, for kernels whose partial sums are added up afterwards."""
    if device.type != "cuda":
        return min(work, 3)
    return min(work, torch.cuda.get_device_properties(device).multi_processor_count * per_sm)
