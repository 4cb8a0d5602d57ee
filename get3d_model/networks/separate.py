"""The separate generators: 3-D networks for SDF and deformation, a tri-plane network for the texture.

Source: GET3D (Gao et al. 2022), section 3.1 and figure 2. Parameter names are those of the published checkpoints.

Shape legend: B batch, C channels, R plane resolution, N grid vertices, Q cubes, P points, D w width,
S style width (texture and geometry, 2 D), L layers (copies of w)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from get3d_model.config import ModelConfig
from get3d_model.isosurface.base import IsosurfaceGrid
from get3d_model.isosurface.cube_grid import CubeGrid
from get3d_model.isosurface.flexicubes import NUM_WEIGHTS
from get3d_model.networks.base import RawGeometry, Sources
from get3d_model.networks.cube_weights import WEIGHT_SCALE
from get3d_model.networks.fields import ModulatedMLP
from get3d_model.networks.grid_lookup import fold_points, volume_lookup
from get3d_model.networks.layers import SynthesisLayer, ToFeature
from get3d_model.networks.synthesis import block_channels, block_resolutions
from get3d_model.networks.volume_field import ENCODING_FEATURES, RESOLUTIONS, VolumeField, encode_position
from get3d_model.networks.wide_mlp import PointRows, WideMLP, fixed_tail
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.side_by_side import side_by_side

MLP_WIDTH = 256
SDF_HIDDEN_LAYERS, DEFORMATION_HIDDEN_LAYERS = 3, 2


@dataclass(frozen=True)
class GeometryVolumes:
    """What the 3-D networks generate: BCDHW each (D along z), each in a precision domain of its own."""

    sdf: Tensor
    deform: Tensor
    sdf_half: HalfDomain
    deform_half: HalfDomain


class TextureBlock(nn.Module):
    """One resolution: conv0 (upsampling; absent at 4x4), conv1, then the planes' head `torgb`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_dim: int,
        resolution: int,
        plane_channels: int,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.is_first = in_channels == 0
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, style_dim, resolution, up=True, clamp=clamp
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, style_dim, resolution, clamp=clamp)
        self.torgb = ToFeature(out_channels, plane_channels, style_dim, clamp=clamp)

    @property
    def num_ws(self) -> int:
        return 2 if self.is_first else 3

    def forward(
        self, x: Tensor | None, skip: Tensor | None, styles_BLS: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        styles = iter(styles_BLS.unbind(dim=1))
        if x is None:
            x = self.const.to(dtype)[None].expand(styles_BLS.shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x.to(dtype), next(styles))
        x = self.conv1(x, next(styles))
        return x, self.torgb.add_to(skip, x, next(styles))


class TexturePlanes(nn.Module):
    """Styles -> texture planes. The order of styles is, per block: conv0 (if any), conv1, torgb."""

    def __init__(self, config: ModelConfig, style_dim: int) -> None:
        super().__init__()
        self.resolutions = block_resolutions(config.tri_plane_resolution)
        self.half_precision_from = config.tri_plane_resolution >> config.num_half_precision_blocks
        in_channels = 0
        for res in self.resolutions:
            out_channels = block_channels(res, config.channel_base, config.channel_max)
            clamp = config.activation_clamp if res > self.half_precision_from else None
            block = TextureBlock(
                in_channels, out_channels, style_dim, res, 3 * config.tri_plane_features, clamp
            )
            self.add_module(f"b{res}", block)
            in_channels = out_channels

    @property
    def num_ws(self) -> int:
        return sum(getattr(self, f"b{res}").num_ws for res in self.resolutions)

    def forward(self, styles_BLS: Tensor, half_dtype: torch.dtype) -> Tensor:
        """Returns B(3C)RR in float32."""
        x = skip = None
        first = 0
        for res in self.resolutions:
            block = getattr(self, f"b{res}")
            dtype = half_dtype if res > self.half_precision_from else torch.float32
            x, skip = block(x, skip, styles_BLS[:, first : first + block.num_ws], dtype)
            first += block.num_ws
        return skip


class TextureField(nn.Module):
    """Styles -> planes, and planes' features -> texture features."""

    def __init__(self, config: ModelConfig, style_dim: int) -> None:
        super().__init__()
        self.tri_plane_synthesis = TexturePlanes(config, style_dim)
        self.mlp_synthesis = ModulatedMLP(
            config.tri_plane_features,
            config.mlp_width,
            config.texture_features,
            config.mlp_hidden_layers,
            style_dim,
        )

    @property
    def num_ws(self) -> int:
        return self.tri_plane_synthesis.num_ws + self.mlp_synthesis.num_ws


class SeparateGenerator:
    """The networks of the separate model (`GeneratorNetworks`); they share nothing but the geometry code.

    Not a module itself: the published names of its networks have no common prefix.

    cubes: the grid whose cubes need FlexiCubes weights; none for other isosurfaces. The published model does not
        say where the separate generators take them from. Here a small MLP reads the deformation network's volume
        at the centre of every cube.
    """

    def __init__(self, config: ModelConfig, cubes: CubeGrid | None = None) -> None:
        channels = (config.volume_channel_base, config.volume_channel_max)
        self.sdf = VolumeField(config.w_dim, *channels, MLP_WIDTH, SDF_HIDDEN_LAYERS, 1)
        self.deform = VolumeField(config.w_dim, *channels, MLP_WIDTH, DEFORMATION_HIDDEN_LAYERS, 3)
        # Texture and geometry codes side by side.
        self.texture = TextureField(config, 2 * config.w_dim)
        self.networks: dict[str, nn.Module] = {
            "geometry_synthesis_sdf": self.sdf,
            "geometry_synthesis_def": self.deform,
            "geometry_synthesis_tex": self.texture,
        }
        self.weight = None
        if cubes is not None:
            self.weight = WideMLP(
                self.deform.point_features,
                config.mlp_width,
                config.mlp_hidden_layers,
                NUM_WEIGHTS,
                config.w_dim,
            )
            self.networks["mlp_synthesis_weight"] = self.weight

    @property
    def num_ws_geo(self) -> int:
        """All geometry networks read the same ws: those of the volumes, then as many as the longest MLP has."""
        weight_ws = 0 if self.weight is None else self.weight.num_ws
        return self.sdf.num_volume_ws + max(len(self.sdf.layers), len(self.deform.layers), weight_ws)

    @property
    def num_ws_tex(self) -> int:
        return self.texture.num_ws

    def texture_styles(self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """BLS: [texture, geometry]; missing geometry ws are the last one, superfluous ones are left out."""
        missing = max(0, ws_tex_BLD.shape[1] - ws_geo_BLD.shape[1])
        ws_geo = torch.cat([ws_geo_BLD, ws_geo_BLD[:, -1:].expand(-1, missing, -1)], dim=1)
        return torch.cat([ws_tex_BLD, ws_geo[:, : ws_tex_BLD.shape[1]]], dim=2)

    def sources(self, ws_geo_BLD: Tensor, styles_tex_BLS: Tensor, half_dtype: torch.dtype) -> Sources:
        """See `GeneratorNetworks`. Geometry volumes are in float16 unless half_dtype is float32."""
        return Sources(
            lambda: self._volumes(ws_geo_BLD, half_dtype),
            lambda: self.texture.tri_plane_synthesis(styles_tex_BLS, half_dtype),
        )

    def _volumes(self, ws_geo_BLD: Tensor, half_dtype: torch.dtype) -> GeometryVolumes:
        dtype = torch.float32 if half_dtype == torch.float32 else torch.float16
        halves = HalfDomain(dtype), HalfDomain(dtype)
        sdf, deform = side_by_side(
            [
                lambda: self.sdf.volume(ws_geo_BLD, halves[0]),
                lambda: self.deform.volume(ws_geo_BLD, halves[1]),
            ],
            [ws_geo_BLD],
        )
        return GeometryVolumes(sdf, deform, *halves)

    def grid_lookup(self, grid: IsosurfaceGrid, mirror_symmetry: bool) -> nn.Module:
        """Geometry volumes -> `GridFeatures`."""
        points_N3 = fold_points(grid.vertices_N3, mirror_symmetry)
        read = volume_lookup(grid.vertices_N3, grid.lattices, grid.extent, RESOLUTIONS[-1], mirror_symmetry)
        channels = self.sdf.point_features - ENCODING_FEATURES
        at_vertices = EncodedLookup(points_N3, read, channels)
        if self.weight is None:
            return GridVolumeLookup(at_vertices)
        centers_Q3 = grid.vertices_N3[grid.cubes_Q8].mean(dim=1)
        lattices = [tuple((axis[1:] + axis[:-1]) / 2 for axis in lattice) for lattice in grid.lattices]
        read = volume_lookup(centers_Q3, lattices, grid.extent, RESOLUTIONS[-1], mirror_symmetry)
        at_cubes = EncodedLookup(fold_points(centers_Q3, mirror_symmetry), read, channels)
        return GridVolumeLookup(at_vertices, at_cubes)

    def geometry(self, features: GridFeatures, ws_geo_BLD: Tensor) -> RawGeometry:
        """SDF, deformation and, for FlexiCubes, weights."""
        half = features.deform_half
        (sdf_BN1,) = features.sdf_half.leave(self.sdf.values(features.sdf_BNC, ws_geo_BLD, features.sdf_half))
        deform_BN3 = self.deform.values(features.deform_BNC, ws_geo_BLD, half)
        if self.weight is None:
            return RawGeometry(sdf_BN1.squeeze(2), *half.leave(deform_BN3))
        ws = ws_geo_BLD[:, self.deform.num_volume_ws :][:, : self.weight.num_ws]
        weights_BQ21 = self.weight(features.cubes_BQC, ws, half, ENCODING_FEATURES)
        deform_BN3, weights_BQ21 = half.leave(deform_BN3, weights_BQ21)
        return RawGeometry(sdf_BN1.squeeze(2), deform_BN3, weights_BQ21 * WEIGHT_SCALE)

    def texture_mlp(self, styles_tex_BLS: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The MLP from the planes' features to texture features: (modulated weight BOI, bias O) per layer."""
        mlp_styles_BLS = styles_tex_BLS[:, self.texture.tri_plane_synthesis.num_ws :]
        return self.texture.mlp_synthesis.point_layers(mlp_styles_BLS)


@dataclass(frozen=True)
class GridFeatures:
    """Inputs of the MLPs as `wide_mlp` takes them: at the grid vertices, and at the cubes' centres if needed."""

    sdf_BNC: Tensor
    deform_BNC: Tensor
    cubes_BQC: Tensor | None
    sdf_half: HalfDomain
    deform_half: HalfDomain


class EncodedLookup(nn.Module):
    """Volume features and position encoding at fixed points."""

    def __init__(self, points_P3: Tensor, read: nn.Module, channels: int) -> None:
        """points_P3: world units. read: reads the volume's `channels` features at those points."""
        super().__init__()
        self.read = read
        self.register_buffer("tail_PT", fixed_tail(encode_position(points_P3), channels), persistent=False)

    def forward(self, volume_BCDHW: Tensor) -> Tensor:
        return PointRows.apply(self.tail_PT, *self.read.parts(volume_BCDHW))


class GridVolumeLookup(nn.Module):
    """Both volumes at the vertices of a grid, and the deformation's at the centres of its cubes if needed."""

    def __init__(self, at_vertices: EncodedLookup, at_cubes: EncodedLookup | None = None) -> None:
        super().__init__()
        self.at_vertices = at_vertices
        self.at_cubes = at_cubes

    def forward(self, volumes: GeometryVolumes) -> GridFeatures:
        return GridFeatures(
            self.at_vertices(volumes.sdf),
            self.at_vertices(volumes.deform),
            None if self.at_cubes is None else self.at_cubes(volumes.deform),
            volumes.sdf_half,
            volumes.deform_half,
        )
