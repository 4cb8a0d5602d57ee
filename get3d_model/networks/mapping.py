"""Mapping network z -> w with truncation.

Source: StyleGAN (Karras et al. 2019), section 2 and appendix B (truncation in W).

Shape legend: B batch, Z latent width, D w width, C conditioning width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from get3d_model.networks.layers import FullyConnected, normalize_second_moment

MAPPING_LR_MULTIPLIER = 0.01
W_AVG_BETA = 0.998


class MappingNetwork(nn.Module):
    """z, normalised to unit second moment, through equalised fully connected layers.

    w_avg is an exponential moving average of w for truncation; `update_w_avg` is called in the
    discriminator phase.
    """

    def __init__(self, z_dim: int, w_dim: int, num_layers: int = 8) -> None:
        super().__init__()
        self.num_layers = num_layers
        for index in range(num_layers):
            layer = FullyConnected(
                z_dim if index == 0 else w_dim, w_dim, activate=True, lr_multiplier=MAPPING_LR_MULTIPLIER
            )
            self.add_module(f"fc{index}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z_BZ: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """Returns w, BD, float32; truncated towards w_avg when truncation_psi != 1."""
        w = normalize_second_moment(z_BZ.float())
        for index in range(self.num_layers):
            w = getattr(self, f"fc{index}")(w)
        return w if truncation_psi == 1.0 else truncate(w, self.w_avg, truncation_psi)

    @torch.no_grad()
    def update_w_avg(self, w_BD: Tensor) -> None:
        self.w_avg.copy_(w_BD.detach().float().mean(dim=0).lerp(self.w_avg, W_AVG_BETA))


def truncate(w_BD: Tensor, w_avg_D: Tensor, truncation_psi: float) -> Tensor:
    """w' = w_avg + psi (w - w_avg)."""
    return w_avg_D.lerp(w_BD, truncation_psi)


class ConditionMapping(nn.Module):
    """Embeds the camera encoding and maps it to the projection vector of a discriminator."""

    def __init__(self, condition_dim: int, out_dim: int, num_layers: int = 8) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.embed = FullyConnected(condition_dim, out_dim)
        for index in range(num_layers):
            self.add_module(
                f"fc{index}",
                FullyConnected(out_dim, out_dim, activate=True, lr_multiplier=MAPPING_LR_MULTIPLIER),
            )

    def forward(self, condition_BC: Tensor) -> Tensor:
        """Returns B(out_dim)."""
        x = normalize_second_moment(self.embed(condition_BC.float()))
        for index in range(self.num_layers):
            x = getattr(self, f"fc{index}")(x)
        return x
