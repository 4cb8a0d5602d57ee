"""Images of a texture field without a list of covered pixels: the CUDA way (see ops/fused/texture.py).

Shape legend: B shapes, I images, H W size
"""

from __future__ import annotations

from torch import Tensor

from get3d_model.ops.dispatch import is_fused
from get3d_model.rendering.surface import VisibleSurface
from get3d_model.types import TextureField

MAX_WIDTH = 64


def can_shade_tiles(field: TextureField) -> bool:
    """On CUDA, with one hidden layer and widths that are powers of two from 16 to 64."""
    if not is_fused(field.planes_BCRR) or len(field.layers) != 2:
        return False
    widths = (*field.layers[0][0].shape[1:], field.layers[1][0].shape[1])
    return all(16 <= width <= MAX_WIDTH and width & (width - 1) == 0 for width in widths)


def shade_tiles(
    surface: VisibleSurface,
    field: TextureField,
    inverse_extent: tuple[float, float, float],
    mirror_symmetry: bool,
) -> Tensor:
    """IHW3: the field's colours where a surface is seen, its background elsewhere.

    inverse_extent: turns world positions into the planes' [-1, 1].
    """
    from get3d_model.ops.fused.texture import ShadePixels

    return ShadePixels.apply(
        field.planes_BCRR,
        *field.layers[0],
        *field.layers[1],
        field.to_rgb_B3I,
        field.background_3,
        surface.positions_BHW3,
        surface.rast_BHW4,
        inverse_extent,
        mirror_symmetry,
    )
