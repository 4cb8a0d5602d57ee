"""Equalised and modulated layers.

Source: equalised learning rate, Karras et al. 2018 (ProGAN) section 4.1: weights are stored N(0, 1) and scaled
by 1/sqrt(fan_in) at run time; modulation and noise, StyleGAN2 (Karras et al. 2020). Parameter names and shapes
are those of the published GET3D checkpoints.

Shape legend: B batch, I input channels, O output channels, H W size, P points, D latent width
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.ops.activation import bias_leaky_relu
from get3d_model.ops.modulated_conv import (
    conv2d_down,
    modulated_conv2d,
    modulated_conv2d_up,
    modulated_linear,
)


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

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight * self.weight_gain, self.bias * self.bias_gain
        if not self.activate:
            return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))
        return bias_leaky_relu(F.linear(x, weight.to(x.dtype)), bias, channel_dim=-1)


class Conv2d(nn.Module):
    """Equalised convolution with leaky ReLU; optionally low-passed and halved."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        down: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.down = down
        self.clamp = clamp

    def forward(self, x_BIHW: Tensor) -> Tensor:
        weight = self.weight * self.weight_gain
        if self.down:
            out = conv2d_down(x_BIHW, weight)
        else:
            out = F.conv2d(x_BIHW, weight.to(x_BIHW.dtype), padding=weight.shape[-1] // 2)
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
        convolve = modulated_conv2d_up if self.up else modulated_conv2d
        out = convolve(x_BIHW, self.weight, self.affine(w_BD))
        out = out + (self.noise_const * self.noise_strength).to(out.dtype)
        return bias_leaky_relu(out, self.bias, channel_dim=1, clamp=self.clamp)


class ToFeature(nn.Module):
    """1x1 modulated convolution without demodulation (`to_rgb`, `totex`, `togeo`)."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.style_gain = 1.0 / math.sqrt(in_channels)
        self.clamp = clamp

    def forward(self, x_BIHW: Tensor, w_BD: Tensor) -> Tensor:
        style = self.affine(w_BD) * self.style_gain
        out = modulated_conv2d(x_BIHW, self.weight, style, demodulate=False)
        out = out + self.bias.to(out.dtype)[None, :, None, None]
        return out if self.clamp is None else out.clamp(-self.clamp, self.clamp)

    def at_points(self, features_BIP: Tensor, w_BD: Tensor) -> Tensor:
        """The same map on points instead of pixels; returns BOP."""
        style_BI = self.affine(w_BD) * self.style_gain
        weight_BOI = self.weight[None, :, :, 0, 0] * style_BI[:, None, :]
        out_BOP = torch.bmm(weight_BOI.to(features_BIP.dtype), features_BIP)
        return out_BOP + self.bias.to(out_BOP.dtype)[:, None]


class ModulatedLinear(nn.Module):
    """Modulated, demodulated fully connected layer over points."""

    def __init__(self, in_features: int, out_features: int, w_dim: int, activate: bool) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_features, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.activate = activate

    def forward(self, x_BIP: Tensor, w_BD: Tensor) -> Tensor:
        out = modulated_linear(x_BIP, self.weight, self.affine(w_BD))
        if not self.activate:
            return out + self.bias.to(out.dtype)[:, None]
        return bias_leaky_relu(out, self.bias, channel_dim=1)


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scales every row to unit mean square."""
    return x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
