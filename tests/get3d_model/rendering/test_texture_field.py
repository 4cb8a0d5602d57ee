"""The texture field's CPU kernel against the composition in PyTorch that defines it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from get3d_model.networks.fields import run_layers
from get3d_model.ops.triplane import sample_triplanes
from get3d_model.rendering.cpu.texture_field import POINTS_PER_UNIT, CpuTextureField
from get3d_model.types import TextureField


def random_field(channels: int, widths: list[int], resolution: int) -> TextureField:
    random = torch.Generator().manual_seed(channels)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    sizes = [channels, *widths]
    layers = tuple((normal(1, o, i) / i**0.5, normal(o)) for i, o in pairwise(sizes))
    planes_BCRR = normal(1, 3 * channels, resolution, resolution)
    return TextureField(planes_BCRR, layers, normal(1, 3, sizes[-1]), normal(3))


def composed(field: TextureField, points_T3: torch.Tensor, extent: float, mirror: bool) -> torch.Tensor:
    """In float64."""
    points_T3 = points_T3.double()
    if mirror:
        points_T3 = torch.cat([points_T3[:, :1].abs(), points_T3[:, 1:]], dim=1)
    features_BCP = sample_triplanes(field.planes_BCRR.double(), points_T3[None] / extent)
    layers = [(weight.double(), bias.double()) for weight, bias in field.layers]
    colors_B3P = field.to_rgb_B3I.double() @ run_layers(layers, features_BCP)
    return (colors_B3P + field.background_3.double()[:, None])[0].T


@pytest.mark.parametrize(
    ("channels", "widths", "mirror"),
    [(32, [32, 16], True), (5, [7, 9, 3], False), (6, [4], False), (3, [40, 35, 5], True)],
)
def test_values_are_those_of_the_composition(channels: int, widths: list[int], mirror: bool) -> None:
    field = random_field(channels, widths, 16)
    points_T3 = torch.randn(
        5000, 3, generator=torch.Generator().manual_seed(1)
    )  # many lie outside of the planes
    points_T3[:8] = torch.tensor([[x, y, z] for x in (-0.9, 0.9) for y in (-0.9, 0.9) for z in (-0.9, 0.9)])
    asked = CpuTextureField(field, (1 / 0.9,) * 3, mirror)
    expected_T3 = composed(field, points_T3, 0.9, mirror)
    colors_T3 = asked.colors(points_T3.numpy())
    np.testing.assert_allclose(colors_T3, expected_T3.numpy(), atol=2e-5 * float(expected_T3.abs().max()))


def test_a_point_does_not_depend_on_company_or_threads() -> None:
    asked = CpuTextureField(random_field(8, [8, 8], 8), (1.0,) * 3, False)
    points_T3 = np.random.default_rng(0).uniform(-1, 1, (3 * POINTS_PER_UNIT + 77, 3)).astype(np.float32)
    colors_T3 = asked.colors(points_T3)
    np.testing.assert_array_equal(asked.colors(points_T3, threads=3), colors_T3)
    np.testing.assert_array_equal(asked.colors(points_T3[5:70]), colors_T3[5:70])
    assert asked.colors(points_T3[:0]).shape == (0, 3)
