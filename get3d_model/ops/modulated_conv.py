"""Style-modulated convolution and fully connected layers.

Source: StyleGAN2 (Karras et al. 2020), section 2.2 and appendix B. Scaling the input channels by the style,
convolving with the shared weight, and scaling the output channels by the demodulation factor equals
modulating the weight per sample, and keeps one ordinary convolution for the whole batch.

Shape legend: B batch, I input channels, O output channels, K kernel size, H W size, P points
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.ops.activation import bias_leaky_relu
from get3d_model.ops.conv import conv2d, conv_transpose2d_2x
from get3d_model.ops.dispatch import is_fused
from get3d_model.ops.resample import low_pass_kernel
from get3d_model.ops.scaled_weight import scaled_weight

DEMODULATION_EPS = 1e-8


def demodulation(weight_OI: Tensor, style_BI: Tensor, gain: float = 1.0) -> Tensor:
    """1 / L2 norm of every modulated output filter, whose weights are `gain` times those given; returns BO.

    weight_OI may carry kernel dimensions (OIKK); they are summed first, so that the batch is one matrix product.
    """
    if is_fused(weight_OI):
        from get3d_model.ops.fused.demodulation import Demodulation
        from get3d_model.ops.fused.few_rows import is_small

        if is_small(style_BI) and weight_OI.is_contiguous() and weight_OI.dtype == torch.float32:
            return Demodulation.apply(weight_OI, style_BI, gain, DEMODULATION_EPS)
    energy_OI = weight_OI.float().square()
    if energy_OI.ndim > 2:
        energy_OI = energy_OI.flatten(2).sum(dim=2)
    if gain != 1.0:
        energy_OI = energy_OI * gain**2
    return torch.rsqrt(style_BI.float().square() @ energy_OI.T + DEMODULATION_EPS)


def modulated_conv2d(
    x_BIHW: Tensor, weight_OIKK: Tensor, style_BI: Tensor, demodulate: bool = True
) -> Tensor:
    """Modulated 'same' convolution; returns BOHW."""
    x = x_BIHW * style_BI.to(x_BIHW.dtype)[:, :, None, None]
    out = F.conv2d(x, weight_OIKK.to(x.dtype), padding=weight_OIKK.shape[-1] // 2)
    if demodulate:
        out = out * demodulation(weight_OIKK, style_BI).to(out.dtype)[:, :, None, None]
    return out


def modulated_conv2d_up(x_BIHW: Tensor, weight_OIKK: Tensor, style_BI: Tensor) -> Tensor:
    """Modulated transposed convolution of stride 2 followed by the low-pass filter with gain 4.

    Returns BO(2H)(2W). Transposed convolution and filter are both linear, so their kernels are merged into
    one 6x6 kernel and its four phases run as one 3x3 convolution at the low resolution (sub-pixel
    convolution): there is no full-resolution filtering pass.
    """
    outputs, inputs = weight_OIKK.shape[:2]
    merged_O66 = merge_with_low_pass(weight_OIKK) * 4.0
    # Output row 2y + p reads input rows y-1, y, y+1 through merged taps p+4, p+2, p (after the flip below).
    phases = merged_O66.flip(2, 3).view(outputs, inputs, 3, 2, 3, 2).permute(0, 3, 5, 1, 2, 4)
    phases = phases.flip(1, 2).reshape(outputs * 4, inputs, 3, 3)
    x = x_BIHW * style_BI.to(x_BIHW.dtype)[:, :, None, None]
    out = F.pixel_shuffle(F.conv2d(x, phases.to(x.dtype), padding=1), 2)
    return out * demodulation(weight_OIKK, style_BI).to(out.dtype)[:, :, None, None]


def merge_with_low_pass(weight_OIKK: Tensor) -> Tensor:
    """The full convolution of every 3x3 filter with the 4x4 low-pass kernel; returns OI66."""
    outputs, inputs = weight_OIKK.shape[:2]
    kernel = low_pass_kernel(weight_OIKK.device, weight_OIKK.dtype)[None, None]
    merged = F.conv2d(weight_OIKK.reshape(outputs * inputs, 1, 3, 3), kernel, padding=3)
    return merged.view(outputs, inputs, 6, 6)


def modulated_layer(
    x_BIHW: Tensor,
    weight_OIKK: Tensor,
    style_BI: Tensor,
    noise_HW: Tensor,
    noise_strength: Tensor,
    bias_O: Tensor,
    up: bool = False,
    clamp: float | None = None,
) -> Tensor:
    """Modulated convolution (doubling the resolution with `up`), constant noise, bias, leaky ReLU; BOHW."""
    if is_fused(x_BIHW):
        from get3d_model.ops.fused.synthesis import ScaleChannels, SynthesisEpilogue

        x = ScaleChannels.apply(x_BIHW, style_BI)
        weight = scaled_weight(weight_OIKK, 1.0, x.dtype)
        out = conv_transpose2d_2x(x, weight) if up else conv2d(x, weight, padding=weight.shape[-1] // 2)
        scale_BO = demodulation(weight_OIKK, style_BI)
        return SynthesisEpilogue.apply(out, scale_BO, noise_HW, noise_strength, bias_O, clamp, up)
    convolve = modulated_conv2d_up if up else modulated_conv2d
    out = convolve(x_BIHW, weight_OIKK, style_BI)
    out = out + (noise_HW * noise_strength).to(out.dtype)
    return bias_leaky_relu(out, bias_O, channel_dim=1, clamp=clamp)


def modulated_projection(x_BIHW: Tensor, weight_BOI: Tensor) -> Tensor:
    """A 1x1 convolution with one weight per sample; BOHW, channels-last."""
    height, width = x_BIHW.shape[2:]
    x_BPI = x_BIHW.permute(0, 2, 3, 1).flatten(1, 2)
    out_BPO = torch.bmm(x_BPI, weight_BOI.transpose(1, 2).to(x_BPI.dtype))
    return out_BPO.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def modulated_linear_weight(weight_OI: Tensor, style_BI: Tensor) -> Tensor:
    """Weight modulated by the style and demodulated, BOI."""
    weight_BOI = weight_OI[None] * style_BI[:, None, :]
    return weight_BOI * demodulation(weight_OI, style_BI).to(weight_BOI.dtype)[:, :, None]


def modulated_linear(x_BIP: Tensor, weight_OI: Tensor, style_BI: Tensor) -> Tensor:
    """Modulated, demodulated fully connected layer applied to every point; returns BOP.

    With few channels and many points it is cheapest to modulate the weight (B x O x I values).
    """
    return torch.bmm(modulated_linear_weight(weight_OI, style_BI).to(x_BIP.dtype), x_BIP)
