"""Resampling by 2 with the separable [1, 3, 3, 1] low-pass filter.

Source: StyleGAN2 (Karras et al. 2020), section 4 and appendix B: every change of resolution is low-passed.

Shape legend: B batch, C channels, H W height and width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.dispatch import is_fused

FILTER_TAPS = (1.0, 3.0, 3.0, 1.0)


def low_pass_kernel(device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The 4x4 low-pass kernel with unit sum."""
    taps = torch.tensor(FILTER_TAPS, device=device, dtype=dtype)
    return torch.outer(taps, taps) / taps.sum() ** 2


def upsample_2x(x_BCHW: Tensor) -> Tensor:
    """Zero-insertion by 2 followed by the low-pass filter with gain 4; returns BC(2H)(2W).

    The two phases of [1, 3, 3, 1] are the weights (1/4, 3/4) and (3/4, 1/4) of bilinear interpolation, so
    the native bilinear kernel computes it; padding with zeros first gives the filter's zero boundary.
    """
    padded = F.pad(x_BCHW, (1, 1, 1, 1))
    doubled = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
    return doubled[:, :, 2:-2, 2:-2]


def add_upsampled(
    skip_BCHW: Tensor | None, x_BCHW: Tensor, bias_C: Tensor, clamp: float | None = None
) -> Tensor:
    """upsample_2x(skip) + clamp(x + bias) in float32; skip has half the resolution of x, or is missing."""
    if is_fused(x_BCHW):
        from get3d_model.ops.fused.skip import AddUpsampledSkip

        return AddUpsampledSkip.apply(skip_BCHW, x_BCHW, bias_C, clamp)
    out = x_BCHW + bias_C.to(x_BCHW.dtype)[:, None, None]
    out = (out if clamp is None else out.clamp(-clamp, clamp)).float()
    return out if skip_BCHW is None else upsample_2x(skip_BCHW) + out


def low_pass(x_BCHW: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
    """Low-passes every channel with `padding` zeros on each side, keeping every `stride`-th sample."""
    channels = x_BCHW.shape[1]
    kernel = (low_pass_kernel(x_BCHW.device, x_BCHW.dtype) * gain).expand(channels, 1, 4, 4)
    return F.conv2d(x_BCHW, kernel, padding=padding, stride=stride, groups=channels)


def downsample_2x(x_BCHW: Tensor) -> Tensor:
    """Low-passes and keeps every second sample; returns BC(H/2)(W/2)."""
    if is_fused(x_BCHW) and x_BCHW.dtype == torch.float32:
        from get3d_model.ops.fused.halve import Halve

        return Halve.apply(x_BCHW)
    return low_pass(x_BCHW, padding=1, stride=2)
