"""The unified tri-plane backbone: one StyleGAN2 generator with a geometry and a texture head per block.

Source: GET3D (Gao et al. 2022), section 3.1 and appendix A ("improved generator"); StyleGAN2 skip architecture.

Shape legend: B batch, C channels, R resolution, D w width, L layers (copies of w)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from get3d_model.networks.layers import SynthesisLayer, ToFeature


def block_channels(resolution: int, channel_base: int, channel_max: int) -> int:
    """min(base / resolution, max), the StyleGAN2 rule."""
    return min(channel_base // resolution, channel_max)


def block_resolutions(resolution: int) -> list[int]:
    """4, 8, ... resolution."""
    return [2**power for power in range(2, resolution.bit_length())]


class TriPlaneBlock(nn.Module):
    """One resolution: conv0 (upsampling; absent at 4x4), conv1, then the `togeo` and `totex` heads."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        plane_channels: int,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.is_first = in_channels == 0
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=True, clamp=clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, clamp=clamp)
        self.togeo = ToFeature(out_channels, plane_channels, w_dim, clamp=clamp)
        self.totex = ToFeature(out_channels, plane_channels, w_dim, clamp=clamp)

    @property
    def num_geo_ws(self) -> int:
        return 2 if self.is_first else 3

    def forward(
        self,
        x: Tensor | None,
        skip: tuple[Tensor | None, Tensor | None],
        ws_geo_BLD: Tensor,
        w_tex_BD: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(features, (geometry planes, texture planes))."""
        ws = iter(ws_geo_BLD.unbind(dim=1))
        if x is None:
            x = self.const.to(dtype)[None].expand(ws_geo_BLD.shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x.to(dtype), next(ws))
        x = self.conv1(x, next(ws))
        return x, (self.togeo.add_to(skip[0], x, next(ws)), self.totex.add_to(skip[1], x, w_tex_BD))


class TriPlaneSynthesis(nn.Module):
    """ws -> geometry planes and texture planes.

    The order of ws is: geometry: per block conv0 (if any), conv1, togeo; texture: per block totex.
    """

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        plane_features: int,
        channel_base: int,
        channel_max: int,
        num_half_precision_blocks: int = 0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolutions = block_resolutions(resolution)
        self.plane_channels = 3 * plane_features
        self.half_precision_from = resolution >> num_half_precision_blocks
        in_channels = 0
        for res in self.resolutions:
            out_channels = block_channels(res, channel_base, channel_max)
            block_clamp = clamp if res > self.half_precision_from else None
            self.add_module(
                f"b{res}",
                TriPlaneBlock(in_channels, out_channels, w_dim, res, self.plane_channels, block_clamp),
            )
            in_channels = out_channels

    @property
    def num_ws_geo(self) -> int:
        return sum(getattr(self, f"b{res}").num_geo_ws for res in self.resolutions)

    @property
    def num_ws_tex(self) -> int:
        return len(self.resolutions)

    def forward(
        self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor, half_dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Returns (planes_geo, planes_tex), each B(3C)RR in float32."""
        x, skip = None, (None, None)
        first = 0
        for index, res in enumerate(self.resolutions):
            block = getattr(self, f"b{res}")
            dtype = half_dtype if res > self.half_precision_from else torch.float32
            ws = ws_geo_BLD[:, first : first + block.num_geo_ws]
            x, skip = block(x, skip, ws, ws_tex_BLD[:, index], dtype)
            first += block.num_geo_ws
        return skip
