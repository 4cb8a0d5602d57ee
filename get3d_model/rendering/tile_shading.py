"""Images of a texture field without a list of covered pixels: the CUDA way (see ops/fused/texture.py).

Shape legend: B shapes, I images, H W size, R plane resolution, C features
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from get3d_model.ops.dispatch import is_fused
from get3d_model.rendering.surface import VisibleSurface

Layers = Sequence[tuple[Tensor, Tensor]]
MAX_WIDTH = 64


def can_shade_tiles(planes_BCRR: Tensor, mlp: Layers) -> bool:
    """On CUDA, with one hidden layer and widths that are powers of two from 16 to 64."""
    if not is_fused(planes_BCRR) or len(mlp) != 2:
        return False
    widths = (*mlp[0][0].shape[1:], mlp[1][0].shape[1])
    return all(16 <= width <= MAX_WIDTH and width & (width - 1) == 0 for width in widths)


def shade_tiles(
    surface: VisibleSurface,
    planes_BCRR: Tensor,
    mlp: Layers,
    to_rgb_B3C: Tensor,
    background_3: Tensor,
    inverse_extent: tuple[float, float, float],
    mirror_symmetry: bool,
) -> Tensor:
    """IHW3: to_rgb(mlp(features)) + background where a surface is seen, the background elsewhere.

    inverse_extent: turns world positions into the planes' [-1, 1].
    """
    from get3d_model.ops.fused.texture import ShadePixels

    return ShadePixels.apply(
        planes_BCRR,
        *mlp[0],
        *mlp[1],
        to_rgb_B3C,
        background_3,
        surface.positions_BHW3,
        surface.rast_BHW4,
        inverse_extent,
        mirror_symmetry,
    )
