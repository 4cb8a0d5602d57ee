"""The separate generators: layers against their definitions in float64, ws order, gradients."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from get3d_model.networks.layers import ModulatedLinear
from get3d_model.networks.separate import EncodedLookup, GridVolumeLookup, SeparateGenerator
from get3d_model.networks.volume_field import RESOLUTIONS, ResidualBlock3d, VolumeField, encode_position
from get3d_model.networks.wide_mlp import PointRows, fixed_tail, wide_mlp
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.modulated_conv3d import modulated_conv3d
from get3d_model.ops.volume import VolumePointLookup
from tests.serving.tiny import MODEL

W_DIM = MODEL.w_dim
FULL = HalfDomain(torch.float32)
CONFIG = dataclasses.replace(MODEL, volume_channel_base=256, volume_channel_max=16)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def networks() -> SeparateGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SeparateGenerator(CONFIG)


@pytest.fixture(scope="module")
def lookup() -> GridVolumeLookup:
    points_N3 = torch.rand(30, 3, generator=random()) - 0.5
    channels = CONFIG.volume_channel_base // RESOLUTIONS[-1]
    return GridVolumeLookup(EncodedLookup(points_N3, VolumePointLookup(points_N3 * 2), channels))


def styles(networks: SeparateGenerator, batch: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = random(seed)
    return (
        torch.randn(batch, networks.num_ws_geo, W_DIM, generator=generator),
        torch.randn(batch, networks.num_ws_tex, W_DIM, generator=generator),
    )


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_modulated_conv3d_is_a_convolution_with_modulated_weights(size: float) -> None:
    """Whatever the size of the weight: demodulation takes it out."""
    generator = random()
    x = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 3, 3, 3, 3, dtype=torch.float64, generator=generator)
    style = torch.rand(2, 3, dtype=torch.float64, generator=generator) + 0.5
    bias = torch.randn(5, dtype=torch.float64, generator=generator)
    ours = modulated_conv3d(x, weight * size, style, bias, HalfDomain(torch.float64))
    for b in range(2):
        modulated = weight * style[b][None, :, None, None, None]
        modulated = modulated / (modulated.square().sum(dim=(1, 2, 3, 4), keepdim=True) + 1e-8).sqrt()
        # The demodulation factor itself is computed in float32.
        out = F.conv3d(x[b : b + 1], modulated, padding=1) + bias[:, None, None, None]
        expected = F.leaky_relu(out, 0.2) * math.sqrt(2)
        assert torch.allclose(ours[b : b + 1], expected, atol=1e-5)


def test_residual_block_against_its_definition() -> None:
    """Skip and convolutions both behind the upsampling, as published; ours projects below it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = ResidualBlock3d(4, 3, W_DIM, 8)
    x = torch.randn(2, 4, 4, 4, 4, generator=random())
    ws = torch.randn(2, 2, W_DIM, generator=random(1))
    up = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    skip = F.conv3d(up, block.skip.weight / math.sqrt(4)) * math.sqrt(0.5)
    body = block.conv1(block.conv0(up, ws[:, 0], FULL), ws[:, 1], FULL) * math.sqrt(0.5)
    assert torch.allclose(block(x, ws, FULL), skip + body, atol=1e-5)


def plain_mlp(layers: torch.nn.ModuleList, points_BPI: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
    """Modulate, demodulate, multiply, add the bias, leaky ReLU with slope 0.2, gain sqrt(2)."""
    x = points_BPI
    for layer, w in zip(layers, ws.unbind(dim=1), strict=True):
        style = w @ layer.affine.weight.T / math.sqrt(w.shape[1]) + layer.affine.bias
        weight = layer.weight * style[:, None]
        weight = weight / (weight.square().sum(dim=2, keepdim=True) + 1e-8).sqrt()
        x = x @ weight.transpose(1, 2) + layer.bias
        if layer.activate:
            x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    return x


@pytest.mark.parametrize("hidden", [1, 3])
def test_wide_mlp_against_its_definition_with_gradients(hidden: int) -> None:
    sizes = [7, *[10] * hidden, 3]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.ModuleList(
            ModulatedLinear(sizes[i], sizes[i + 1], W_DIM, activate=i < hidden) for i in range(hidden + 1)
        )
        for layer in layers:
            torch.nn.init.normal_(layer.bias)
    features, fixed = torch.randn(2, 20, 4, generator=random()), torch.randn(20, 3, generator=random(3))
    ws = torch.randn(2, hidden + 1, W_DIM, generator=random(1))
    direction = torch.randn(2, 20, 3, generator=random(2))
    results = []
    for name in ("ours", "plain"):
        modules, x, w = (copy.deepcopy(item) for item in (layers, features, ws))
        x.requires_grad_(True), w.requires_grad_(True)
        if name == "ours":
            rows = PointRows.apply(fixed_tail(fixed, 4), x[:, :12], x[:, 12:])
            out = wide_mlp(modules, rows, w, FULL, at_end=3)
        else:
            modules, xd, wd = modules.double(), x.double(), w.double()
            out = plain_mlp(modules, torch.cat([fixed.double().expand(2, -1, -1), xd], dim=2), wd)
        (out * direction).sum().backward()
        gradients = [x.grad, w.grad, *(p.grad for p in modules.parameters())]
        results.append([out.detach(), *gradients])
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours.double(), plain.double(), rtol=1e-3, atol=1e-4)


def test_encoding() -> None:
    encoded = encode_position(torch.tensor([[0.5, 0.25, 0.0]]))
    half = math.sqrt(0.5)
    assert torch.allclose(encoded, torch.tensor([[1.0, half, 0.0, 0.0, half, 1.0]]), atol=1e-6)


def test_counts_of_ws(networks: SeparateGenerator) -> None:
    """Seven convolutions and the MLP of four layers; the texture backbone of three blocks and its MLP of two."""
    assert (networks.num_ws_geo, networks.num_ws_tex) == (11, 2 + 3 + 3 + 2)


def test_texture_styles_repeat_the_last_geometry_w(networks: SeparateGenerator) -> None:
    ws_geo, ws_tex = styles(networks)
    for count in (3, 11):
        joined = networks.texture_styles(ws_geo[:, :count], ws_tex)
        assert joined.shape == (2, 10, 2 * W_DIM) and torch.equal(joined[..., :W_DIM], ws_tex)
        for layer in range(10):
            assert torch.equal(joined[:, layer, W_DIM:], ws_geo[:, min(layer, count - 1)])


def test_which_values_a_geometry_w_moves(networks: SeparateGenerator, lookup: GridVolumeLookup) -> None:
    """The deformation network has one layer less than the SDF network."""
    ws_geo, ws_tex = styles(networks)

    @torch.no_grad()
    def values(ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        volumes = networks.sources(ws, networks.texture_styles(ws, ws_tex), torch.float32).geometry()
        raw = networks.geometry(lookup(volumes), ws)
        return raw.sdf_BN, raw.deform_BN3

    sdf, deform = values(ws_geo)
    assert sdf.shape == (2, 30) and deform.shape == (2, 30, 3)
    for layer in range(networks.num_ws_geo):
        changed = ws_geo.clone()
        changed[:, layer] += 1
        moved_sdf, moved_deform = values(changed)
        assert not torch.allclose(sdf, moved_sdf)
        assert torch.equal(deform, moved_deform) == (layer == 10)


def test_half_precision_stays_close_with_its_gradients(
    networks: SeparateGenerator, lookup: GridVolumeLookup
) -> None:
    """float16 for the geometry, whichever type the other networks use; gradients far below its range."""
    ws_geo, ws_tex = styles(networks, batch=1)
    weight = networks.sdf.layers[1].weight
    sdf, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        volumes = networks.sources(ws_geo, networks.texture_styles(ws_geo, ws_tex), dtype).geometry()
        assert volumes.sdf.dtype == (torch.float32 if dtype == torch.float32 else torch.float16)
        raw = networks.geometry(lookup(volumes), ws_geo)
        assert raw.sdf_BN.dtype == torch.float32
        sdf.append(raw.sdf_BN.detach())
        gradients.append(torch.autograd.grad(raw.sdf_BN.square().mean() * 1e-9, weight)[0])
    assert (sdf[0] - sdf[1]).abs().max() < 0.01 * sdf[0].std()
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


def test_the_volume_field_reads_only_its_ws() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = VolumeField(W_DIM, 256, 16, 8, 2, 3)
    assert (field.num_volume_ws, field.num_ws) == (7, 10)
    assert field.layers[0].weight.shape == (8, 6 + 8) and field.layers[2].weight.shape == (3, 8)
