"""What `Synthesis` asks of the networks of a generator, unified or separate.

Shape legend: B batch, N grid vertices, P points, C features, Q cubes, L layers (copies of w), D w width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from get3d_model.isosurface.base import IsosurfaceGrid


@dataclass(frozen=True)
class RawGeometry:
    """Network outputs at the vertices of the grid.

    sdf_BN: without the prior. deform_BN3: before tanh and scale.
    weights_BQ21: FlexiCubes weights before their activations; none where the isosurface needs none.
    """

    sdf_BN: Tensor
    deform_BN3: Tensor
    weights_BQ21: Tensor | None = None


@dataclass(frozen=True)
class Sources:
    """What geometry and texture are made from.

    geometry: makes the source of the geometry features; texture: makes the texture planes, B(3C)RR. Neither needs the
    other. made: tensors that the two hand on and that exist already.
    """

    geometry: Callable[[], Any]
    texture: Callable[[], Tensor]
    made: tuple[Tensor, ...] = ()


class GeneratorNetworks(Protocol):
    """From ws to sources of features (planes or volumes), and from features to values.

    networks: the modules by their published names, relative to `synthesis`.
    """

    networks: dict[str, nn.Module]

    @property
    def num_ws_geo(self) -> int: ...

    @property
    def num_ws_tex(self) -> int: ...

    def texture_styles(self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """The styles that drive the texture networks; the first D channels are those of ws_tex."""
        ...

    def sources(self, ws_geo_BLD: Tensor, styles_tex_BLS: Tensor, half_dtype: torch.dtype) -> Sources:
        """The planes or volumes, as far as they can be made apart from each other."""
        ...

    def grid_lookup(self, grid: IsosurfaceGrid, mirror_symmetry: bool) -> nn.Module:
        """Geometry source -> what `geometry` reads at the vertices of a grid."""
        ...

    def geometry(self, features: Any, ws_geo_BLD: Tensor) -> RawGeometry:
        """Values at the grid vertices from what the grid lookup read in the geometry source."""
        ...

    def texture_mlp(self, styles_tex_BLS: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The MLP from the planes' features to texture features: (modulated weight BOI, bias O) per layer."""
        ...
