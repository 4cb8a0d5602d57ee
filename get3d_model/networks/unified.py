"""The unified generator: one tri-plane backbone, and the fields that read its planes.

Source: GET3D (Gao et al. 2022), section 3.1 ("improved generator", appendix A). Parameter names are those of the
published checkpoints.

Shape legend: B batch, C plane channels, R plane resolution, P points, D w width, L layers (copies of w)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from get3d_model.config import ModelConfig
from get3d_model.isosurface.base import IsosurfaceGrid
from get3d_model.isosurface.cube_grid import CubeGrid
from get3d_model.networks.base import RawGeometry, Sources
from get3d_model.networks.cube_weights import CubeWeightMLP
from get3d_model.networks.fields import ModulatedMLP
from get3d_model.networks.grid_lookup import plane_lookup
from get3d_model.networks.synthesis import TriPlaneSynthesis
from get3d_model.ops.triplane import LatticeSamples


class UnifiedTriPlaneGenerator(nn.Module):
    """ws -> planes, and planes' features -> SDF, deformation, texture features (`GeneratorNetworks`).

    cubes: the grid whose cubes need FlexiCubes weights; none for other isosurfaces.
    """

    def __init__(self, config: ModelConfig, cubes: CubeGrid | None = None) -> None:
        super().__init__()
        self.tri_plane_resolution = config.tri_plane_resolution
        self.tri_plane_synthesis = TriPlaneSynthesis(
            config.w_dim,
            config.tri_plane_resolution,
            config.tri_plane_features,
            config.channel_base,
            config.channel_max,
            config.num_half_precision_blocks,
            config.activation_clamp if config.num_half_precision_blocks else None,
        )

        def head(out_features: int) -> ModulatedMLP:
            return ModulatedMLP(
                config.tri_plane_features,
                config.mlp_width,
                out_features,
                config.mlp_hidden_layers,
                config.w_dim,
            )

        self.mlp_synthesis_tex = head(config.texture_features)
        self.mlp_synthesis_sdf = head(1)
        self.mlp_synthesis_def = head(3)
        self.mlp_synthesis_weight = None
        if cubes is not None:
            self.mlp_synthesis_weight = CubeWeightMLP(
                config.tri_plane_features, config.mlp_width, config.mlp_hidden_layers, config.w_dim, cubes
            )

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self}

    @property
    def num_ws_geo(self) -> int:
        """Backbone layers, then the MLP layers (SDF, deformation and weights share theirs)."""
        return self.tri_plane_synthesis.num_ws_geo + self.mlp_synthesis_sdf.num_ws

    @property
    def num_ws_tex(self) -> int:
        return self.tri_plane_synthesis.num_ws_tex + self.mlp_synthesis_tex.num_ws

    def sources(self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor, half_dtype: torch.dtype) -> Sources:
        """See `GeneratorNetworks`. One backbone makes both sets of planes, each B(3C)RR."""
        planes_geo, planes_tex = self.tri_plane_synthesis(ws_geo_BLD, ws_tex_BLD, half_dtype)
        return Sources(lambda: planes_geo, lambda: planes_tex, (planes_geo, planes_tex))

    def texture_styles(self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """The texture ws: the backbone's geometry ws reach the texture through the planes."""
        return ws_tex_BLD

    def grid_lookup(self, grid: IsosurfaceGrid, mirror_symmetry: bool) -> nn.Module:
        """Geometry planes -> features BCN."""
        return plane_lookup(grid, self.tri_plane_resolution, mirror_symmetry)

    def geometry(self, features: Tensor | LatticeSamples, ws_geo_BLD: Tensor) -> RawGeometry:
        """SDF, deformation and, for FlexiCubes, weights from the features (BCN) at the grid vertices."""
        ws = ws_geo_BLD[:, self.tri_plane_synthesis.num_ws_geo :]
        weight = self.mlp_synthesis_weight
        if isinstance(features, LatticeSamples):
            sdf, deform = self.mlp_synthesis_sdf.point_layers(ws), self.mlp_synthesis_def.point_layers(ws)
            if features.can_evaluate(sdf, deform):
                sdf_BN, deform_BN3 = features.evaluate(sdf, deform)
                weights = None if weight is None else weight(features, ws)
                return RawGeometry(sdf_BN, deform_BN3, weights)
            features = features.expand()
        features_BCN = features
        return RawGeometry(
            self.mlp_synthesis_sdf(features_BCN, ws).squeeze(1),
            self.mlp_synthesis_def(features_BCN, ws).transpose(1, 2),
            None if weight is None else weight(features_BCN, ws),
        )

    def texture_mlp(self, ws_tex_BLD: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The MLP from the planes' features to texture features: (modulated weight BOI, bias O) per layer."""
        return self.mlp_synthesis_tex.point_layers(ws_tex_BLD[:, self.tri_plane_synthesis.num_ws_tex :])
