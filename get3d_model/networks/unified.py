"""The unified generator: one tri-plane backbone, and the fields that read its planes.

Source: GET3D (Gao et al. 2022), section 3.1 ("improved generator", appendix A). Parameter names are those of the
published checkpoints.

Shape legend: B batch, C plane channels, R plane resolution, P points, D w width, L layers (copies of w)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from get3d_model.config import ModelConfig
from get3d_model.networks.fields import ModulatedMLP
from get3d_model.networks.synthesis import TriPlaneSynthesis


class UnifiedTriPlaneGenerator(nn.Module):
    """ws -> planes, and planes with features -> SDF, deformation, texture features."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
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

    @property
    def num_ws_geo(self) -> int:
        """Backbone layers, then the MLP layers (SDF and deformation share theirs)."""
        return self.tri_plane_synthesis.num_ws_geo + self.mlp_synthesis_sdf.num_ws

    @property
    def num_ws_tex(self) -> int:
        return self.tri_plane_synthesis.num_ws_tex + self.mlp_synthesis_tex.num_ws

    def planes(
        self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor, half_dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """(planes_geo, planes_tex), each B(3C)RR."""
        return self.tri_plane_synthesis(ws_geo_BLD, ws_tex_BLD, half_dtype)

    def sdf_and_deformation(self, features_BCP: Tensor, ws_geo_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Raw (sdf_BP, deformation_B3P) from geometry features."""
        ws = ws_geo_BLD[:, self.tri_plane_synthesis.num_ws_geo :]
        return self.mlp_synthesis_sdf(features_BCP, ws).squeeze(1), self.mlp_synthesis_def(features_BCP, ws)

    def texture_features(self, features_BCP: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """Texture features, B(texture_features)P, from the planes' features."""
        return self.mlp_synthesis_tex(features_BCP, ws_tex_BLD[:, self.tri_plane_synthesis.num_ws_tex :])
