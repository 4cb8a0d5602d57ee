"""A 3-D generator with the MLP that reads its volume: the SDF and deformation networks of the separate model.

Source: GET3D (Gao et al. 2022), section 3.1 and appendix. Parameter names are those of the published checkpoints.

Shape legend: B batch, C I O channels, D H W volume size, R resolution, U twice that,
P points, L layers (copies of w)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.networks.layers import FullyConnected
from get3d_model.networks.synthesis import block_channels
from get3d_model.networks.wide_mlp import wide_layers, wide_mlp
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.modulated_conv3d import modulated_conv3d

RESOLUTIONS = (4, 8, 16, 32)
ENCODING_FEATURES = 6
BRANCH_GAIN = math.sqrt(0.5)


def encode_position(points_P3: Tensor) -> Tensor:
    """[sin(pi p), cos(pi p)] of points in world units; P6."""
    return torch.cat([torch.sin(math.pi * points_P3), torch.cos(math.pi * points_P3)], dim=-1)


class SynthesisLayer3d(nn.Module):
    """Modulated 3x3x3 convolution with leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        # In the published files, never used: the 3-D generators have no noise.
        self.register_buffer("noise_strength", torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x_BIDHW: Tensor, w_BD: Tensor, half: HalfDomain) -> Tensor:
        return modulated_conv3d(x_BIDHW, self.weight, self.affine(w_BD), self.bias, half)


class Projection3d(nn.Module):
    """Equalised 1x1x1 convolution without bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1, 1))
        self.weight_gain = 1.0 / math.sqrt(in_channels)

    def forward(self, x_BIDHW: Tensor, half: HalfDomain) -> Tensor:
        return F.conv3d(x_BIDHW, half.enter(self.weight * self.weight_gain))


class FirstBlock3d(nn.Module):
    """Learned constant, then one convolution."""

    num_ws = 1

    def __init__(self, channels: int, w_dim: int, resolution: int) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(channels, resolution, resolution, resolution))
        self.conv1 = SynthesisLayer3d(channels, channels, w_dim, resolution)

    def forward(self, ws_BLD: Tensor, half: HalfDomain) -> Tensor:
        x = half.enter(self.const).expand(ws_BLD.shape[0], -1, -1, -1, -1)
        return self.conv1(x.contiguous(memory_format=torch.channels_last_3d), ws_BLD[:, 0], half)


class ResidualBlock3d(nn.Module):
    """Trilinear upsampling by 2, then conv0 and conv1 beside a 1x1x1 skip; both branches scaled by sqrt(0.5)."""

    num_ws = 2

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int) -> None:
        super().__init__()
        self.conv0 = SynthesisLayer3d(in_channels, out_channels, w_dim, resolution)
        self.conv1 = SynthesisLayer3d(out_channels, out_channels, w_dim, resolution)
        self.skip = Projection3d(in_channels, out_channels)
        self.register_buffer("doubling_UR", doubling_weights(resolution // 2), persistent=False)

    def forward(self, x_BIDHW: Tensor, ws_BLD: Tensor, half: HalfDomain) -> Tensor:
        # The projection commutes with the interpolation and costs an eighth below it.
        doubling_UR = self.doubling_UR.to(x_BIDHW.dtype)
        skip = upsample_2x_trilinear(self.skip(x_BIDHW, half), doubling_UR)
        x = self.conv0(upsample_2x_trilinear(x_BIDHW, doubling_UR), ws_BLD[:, 0], half)
        return (self.conv1(x, ws_BLD[:, 1], half) + skip) * BRANCH_GAIN


def upsample_2x_trilinear(x_BCDHW: Tensor, doubling_UR: Tensor) -> Tensor:
    """Doubles the resolution of cubic volumes; voxel centres are not aligned to the corners, borders are repeated.

    doubling_UR: `doubling_weights`. One small matrix product per axis: no scatter in the backward pass, and channels
    stay last in memory, as the convolutions have them.
    """
    size = 2 * x_BCDHW.shape[2]
    x = torch.matmul(doubling_UR, x_BCDHW.permute(0, 2, 3, 4, 1))
    x = torch.matmul(doubling_UR, x.flatten(3))
    x = torch.matmul(doubling_UR, x.flatten(2))
    return x.unflatten(2, (size, size, -1)).permute(0, 4, 1, 2, 3)


def doubling_weights(resolution: int) -> Tensor:
    """Linear interpolation from R to U = 2 R values: 3/4 of the nearer, 1/4 of the farther neighbour."""
    position_U1 = ((torch.arange(2 * resolution) + 0.5) / 2 - 0.5).clamp(0, resolution - 1)[:, None]
    return (1.0 - (position_U1 - torch.arange(resolution)).abs()).clamp(min=0.0)


class VolumeField(nn.Module):
    """ws -> feature volume, and features read from it -> values at points, by a modulated MLP of width `width`.

    The ws of the volume's convolutions come first, then those of the MLP.

    Half precision is float16, whatever the other networks use. Measured on untrained networks at the published size,
    rounding moves the SDF from one grid vertex to the next by 0.15 (bfloat16) or 0.02 (float16) of its typical
    difference: a seventh or a fiftieth of a cell, 1.5 or 0.2 pixels of a 1024 image.
    """

    def __init__(
        self,
        w_dim: int,
        channel_base: int,
        channel_max: int,
        width: int,
        hidden_layers: int,
        out_features: int,
    ) -> None:
        super().__init__()
        in_channels = block_channels(RESOLUTIONS[0], channel_base, channel_max)
        self.b4 = FirstBlock3d(in_channels, w_dim, RESOLUTIONS[0])
        for res in RESOLUTIONS[1:]:
            out_channels = block_channels(res, channel_base, channel_max)
            self.add_module(f"b{res}", ResidualBlock3d(in_channels, out_channels, w_dim, res))
            in_channels = out_channels
        self.point_features = ENCODING_FEATURES + in_channels
        self.layers = wide_layers(self.point_features, width, hidden_layers, out_features, w_dim)

    @property
    def num_volume_ws(self) -> int:
        return sum(getattr(self, f"b{res}").num_ws for res in RESOLUTIONS)

    @property
    def num_ws(self) -> int:
        return self.num_volume_ws + len(self.layers)

    def volume(self, ws_BLD: Tensor, half: HalfDomain) -> Tensor:
        """The feature volume, BCDHW (D along z), in the domain `half`. ws_BLD may hold more ws than are read."""
        x, first = self.b4(ws_BLD, half), self.b4.num_ws
        for res in RESOLUTIONS[1:]:
            block = getattr(self, f"b{res}")
            x = block(x, ws_BLD[:, first : first + block.num_ws], half)
            first += block.num_ws
        return x

    def values(self, points_BPI: Tensor, ws_BLD: Tensor, half: HalfDomain) -> Tensor:
        """Values, BPO, from rows of volume features with the encoding behind them (`PointRows`); all in `half`."""
        ws = ws_BLD[:, self.num_volume_ws : self.num_ws]
        return wide_mlp(self.layers, points_BPI, ws, half, ENCODING_FEATURES)
