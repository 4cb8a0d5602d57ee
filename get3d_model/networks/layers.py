"""Equalised and modulated layers.

Source: equalised learning rate, Karras et al. 2018 (ProGAN) section 4.1: weights are stored N(0, 1) and scaled
by 1/sqrt(fan_in) at run time; modulation and noise, StyleGAN2 (Karras et al. 2020). Parameter names and shapes
are those of the published GET3D checkpoints.

Shape legend: B batch, I input channels, O output channels, H W size, P points, D latent width
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from get3d_model.ops.activation import bias_leaky_relu
from get3d_model.ops.conv import conv2d
from get3d_model.ops.leaky import LEAKY_GAIN
from get3d_model.ops.linear import equalized_linear
from get3d_model.ops.modulated_conv import (
    modulated_layer,
    modulated_linear,
    modulated_linear_weight,
    modulated_projection,
)
from get3d_model.ops.resample import add_upsampled
from get3d_model.ops.scaled_weight import scaled_weight


class FullyConnected(nn.Module):
    """Equalised fully connected layer; weight and bias are stored divided by `lr_multiplier`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activate: bool = False,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.activate = activate
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x_BI: Tensor, gain: float = 1.0) -> Tensor:
        """BO; `gain` multiplies the output."""
        if self.activate:
            # Leaky ReLU is homogeneous: its gain goes into the product.
            gain = gain * LEAKY_GAIN
        return equalized_linear(
            x_BI, self.weight, self.bias, self.weight_gain * gain, self.bias_gain * gain, self.activate
        )


class Conv2d(nn.Module):
    """Equalised convolution with leaky ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.clamp = clamp

    def convolve(
        self,
        x_BIHW: Tensor,
        stride: int = 1,
        padding: int = 0,
        remake_input: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """The convolution without bias and activation, for what fuses them with its next step (see `ops.conv`)."""
        weight = scaled_weight(self.weight, self.weight_gain, x_BIHW.dtype)
        return conv2d(x_BIHW, weight, stride, padding, remake_input)

    def forward(self, x_BIHW: Tensor) -> Tensor:
        out = self.convolve(x_BIHW, padding=self.weight.shape[-1] // 2)
        return bias_leaky_relu(out, self.bias, channel_dim=1, clamp=self.clamp)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, constant noise, leaky ReLU; optionally doubling the resolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        up: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.up = up
        self.clamp = clamp

    def forward(self, x_BIHW: Tensor, w_BD: Tensor) -> Tensor:
        return modulated_layer(
            x_BIHW,
            self.weight,
            self.affine(w_BD),
            self.noise_const,
            self.noise_strength,
            self.bias,
            up=self.up,
            clamp=self.clamp,
        )


class ToFeature(nn.Module):
    """1x1 modulated convolution without demodulation (`to_rgb`, `totex`, `togeo`)."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.style_gain = 1.0 / math.sqrt(in_channels)
        self.clamp = clamp

    def project(self, x_BIHW: Tensor, w_BD: Tensor) -> Tensor:
        """The map of every pixel, without bias and clamp; BOHW."""
        return modulated_projection(x_BIHW, self.point_weight(w_BD))

    def add_to(self, skip: Tensor | None, x_BIHW: Tensor, w_BD: Tensor) -> Tensor:
        """Upsampled skip (if any) plus this map with its bias, float32."""
        return add_upsampled(skip, self.project(x_BIHW, w_BD), self.bias, self.clamp)

    def point_weight(self, w_BD: Tensor) -> Tensor:
        """The modulated weight, BOI."""
        return self.weight[None, :, :, 0, 0] * self.affine(w_BD, self.style_gain)[:, None, :]


class ModulatedLinear(nn.Module):
    """Modulated, demodulated fully connected layer over points."""

    def __init__(self, in_features: int, out_features: int, w_dim: int, activate: bool) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_features, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.activate = activate

    def point_weight(self, w_BD: Tensor) -> Tensor:
        """The modulated, demodulated weight, BOI."""
        return modulated_linear_weight(self.weight, self.affine(w_BD))

    def forward(self, x_BIP: Tensor, w_BD: Tensor) -> Tensor:
        out = modulated_linear(x_BIP, self.weight, self.affine(w_BD))
        if not self.activate:
            return out + self.bias.to(out.dtype)[:, None]
        return bias_leaky_relu(out, self.bias, channel_dim=1)


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scales every row to unit mean square."""
    return x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
