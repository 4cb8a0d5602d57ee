"""Exponential moving average of the generator (G_ema), the weights that are sampled.

Source: ProGAN (Karras et al. 2018); ramp-up, StyleGAN2-ADA (Karras et al. 2020b).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ema_beta(batch_size: int, half_life_kimg: float, images_seen: int, rampup: float | None) -> float:
    """Decay per step such that a weight halves every `half_life_kimg` thousand images.

    rampup: the half-life is at most this share of `images_seen`, so that early weights are forgotten.
    """
    half_life = half_life_kimg * 1000.0
    if rampup is not None:
        half_life = min(half_life, images_seen * rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, beta: float) -> None:
    """ema = lerp(module, ema, beta) for parameters; stored buffers (w_avg, noise) are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), 1.0 - beta)
    torch._foreach_copy_(stored_buffers(ema), stored_buffers(module))


def stored_buffers(module: nn.Module) -> list[Tensor]:
    """Buffers that are part of the state; the others (grids, tables) are the same in every copy."""
    return [
        buffer
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
        if name not in part._non_persistent_buffers_set
    ]
