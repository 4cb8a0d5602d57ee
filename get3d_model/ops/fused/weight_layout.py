"""A convolution's weight between its own layout and the channels-last one, scaled and converted on the way.

Element by element, one of the two sides would be read or written across memory; through a tile neither is.

Shape legend: O I output and input channels, T taps
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from get3d_model.ops.fused.common import cdiv

CHANNELS = 128


@triton.jit
def _weight_kernel(
    source,
    out,
    gain,
    inputs,
    TAPS: tl.constexpr,
    TO_LAST: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """out = gain * source; OIT to OTI with TO_LAST, else OTI to OIT."""
    first = tl.program_id(0).to(tl.int64) * inputs * TAPS
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    t = tl.arange(0, BLOCK_T)
    ok = (i < inputs)[:, None] & (t < TAPS)[None, :]
    taps_last = first + i[:, None] * TAPS + t[None, :]
    channels_last = first + t[None, :] * inputs + i[:, None]
    read, written = (taps_last, channels_last) if TO_LAST else (channels_last, taps_last)
    value = tl.load(source + read, mask=ok, other=0.0).to(tl.float32) * gain
    tl.store(out + written, value.to(out.dtype.element_ty), mask=ok)


def weight_to_channels_last(weight_OIKK: Tensor, gain: float, dtype: torch.dtype) -> Tensor:
    """gain * weight in `dtype`, OIKK and channels-last. The weight is contiguous."""
    out = torch.empty(
        weight_OIKK.shape, device=weight_OIKK.device, dtype=dtype, memory_format=torch.channels_last
    )
    return _converted(weight_OIKK, out, gain, to_last=True)


def weight_from_channels_last(grad_OIKK: Tensor, gain: float, dtype: torch.dtype) -> Tensor:
    """gain * gradient in `dtype`, contiguous. The gradient is channels-last."""
    return _converted(
        grad_OIKK, torch.empty(grad_OIKK.shape, device=grad_OIKK.device, dtype=dtype), gain, to_last=False
    )


def _converted(source: Tensor, out: Tensor, gain: float, to_last: bool) -> Tensor:
    outputs, inputs, height, width = source.shape
    taps = height * width
    _weight_kernel[(outputs, cdiv(inputs, CHANNELS))](
        source, out, gain, inputs, TAPS=taps, TO_LAST=to_last,
        BLOCK_I=min(CHANNELS, triton.next_power_of_2(inputs)), BLOCK_T=triton.next_power_of_2(taps), num_warps=4,
    )  # fmt: skip
    return out
