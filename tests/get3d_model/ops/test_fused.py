"""Fused CUDA kernels against the PyTorch compositions that define them: values, first and second derivatives."""

import pytest
import torch
import torch.nn.functional as F

from get3d_model.cameras import UniformOrbit
from get3d_model.config import ModelConfig
from get3d_model.generator import build_generator
from get3d_model.losses.adversarial import r1_penalty
from get3d_model.networks.discriminator import Discriminator
from get3d_model.networks.wide_mlp import PointRows, fixed_tail, wide_layers, wide_mlp
from get3d_model.ops import dispatch
from get3d_model.ops.activation import activated_low_pass
from get3d_model.ops.from_rgb import PendingActivation, add_from_rgb
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.modulated_conv import modulated_layer
from get3d_model.ops.resample import add_upsampled, downsample_2x
from get3d_model.rendering.select import make_rasterizer
from tests.get3d_model.ops.compositions import compositions

MODULES = (
    "ops.activation", "ops.from_rgb", "ops.modulated_conv", "ops.resample", "ops.scaled_weight", "ops.triplane",
    "rendering.tile_shading",
)  # fmt: skip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(autouse=True)
def full_precision():
    """TF32 off: both sides then differ by float32 rounding only."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def both(function):
    """(fused result, composed result)."""
    fused = function()
    with compositions(MODULES):
        return fused, function()


def assert_close(fused, composed, tolerance=1e-5):
    assert len(fused) == len(composed)
    for ours, reference in zip(fused, composed, strict=True):
        scale = reference.abs().max() + 1e-12
        assert (ours - reference).abs().max() / scale < tolerance


def test_dispatch_finds_triton():
    assert dispatch.is_fused(torch.zeros(1, device="cuda"))


@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("channels", [24, 512])
def test_activated_low_pass_twice_differentiable(clamp, channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 18, 37, device="cuda", requires_grad=True)
    bias = torch.randn(channels, device="cuda", requires_grad=True)
    grad = torch.randn(2, channels, 19, 38, device="cuda", requires_grad=True)
    probe = torch.randn_like(x)

    def run():
        y = activated_low_pass(x, bias, clamp)
        gx, gb = torch.autograd.grad(y, (x, bias), grad, create_graph=True)
        return y, gx, gb, torch.autograd.grad(gx, grad, probe)[0]

    assert_close(*both(run))


@pytest.mark.parametrize("kinds", [1, 3])
@pytest.mark.parametrize("has_below", [True, False])
@pytest.mark.parametrize("channels", [32, 512])
def test_from_rgb_twice_differentiable(kinds, has_below, channels):
    torch.manual_seed(0)
    image = torch.randn(3, kinds, 20, 24, device="cuda", requires_grad=True)
    weight = torch.randn(channels, kinds, device="cuda", requires_grad=True)
    bias, bias_x = (torch.randn(channels, device="cuda", requires_grad=True) for _ in range(2))
    x = torch.randn(3, channels, 20, 24, device="cuda", requires_grad=True)
    grad = torch.randn(3, channels, 20, 24, device="cuda", requires_grad=True)
    inputs = [image, weight, bias] + ([x, bias_x] if has_below else [])
    probes = [torch.randn_like(image), torch.randn_like(x)]

    def run():
        below = PendingActivation(x, bias_x, 1.5) if has_below else None
        y = add_from_rgb(below, image, weight, bias, 1.0, torch.float32)
        first = torch.autograd.grad(y, inputs, grad, create_graph=True)
        outer = (first[0], first[3]) if has_below else (first[0],)
        second = torch.autograd.grad(outer, (grad, weight), probes[: len(outer)])
        return (y, *first, *second)

    assert_close(*both(run), tolerance=3e-5)


@pytest.mark.parametrize("up", [False, True])
def test_modulated_layer(up):
    torch.manual_seed(0)
    size = 32 if up else 16
    inputs = [
        torch.randn(3, 48, 16, 16, device="cuda"),
        torch.randn(40, 48, 3, 3, device="cuda"),
        torch.randn(3, 48, device="cuda") + 1,
        torch.tensor(0.3, device="cuda"),
        torch.randn(40, device="cuda"),
    ]
    x, weight, style, strength, bias = [item.requires_grad_() for item in inputs]
    noise = torch.randn(size, size, device="cuda")
    grad = torch.randn(3, 40, size, size, device="cuda")

    def run():
        y = modulated_layer(x, weight, style, noise, strength, bias, up=up, clamp=4.0)
        return (y, *torch.autograd.grad(y, (x, weight, style, strength, bias), grad))

    assert_close(*both(run), tolerance=1e-4)


@pytest.mark.parametrize("has_skip", [True, False])
def test_skip_connection(has_skip):
    torch.manual_seed(0)
    x, bias = torch.randn(2, 96, 16, 16, device="cuda"), torch.randn(96, device="cuda")
    skip = torch.randn(2, 96, 8, 8, device="cuda") if has_skip else None
    inputs = [item.requires_grad_() for item in (x, bias, skip) if item is not None]
    grad = torch.randn_like(x)

    def run():
        y = add_upsampled(skip, x, bias, clamp=1.0)
        return (y, *torch.autograd.grad(y, inputs, grad))

    assert_close(*both(run))


def test_halving_twice_differentiable():
    image = torch.randn(2, 4, 32, 48, device="cuda", requires_grad=True)
    grad = torch.randn(2, 4, 16, 24, device="cuda", requires_grad=True)

    def run():
        y = downsample_2x(image)
        (g,) = torch.autograd.grad(y, image, grad, create_graph=True)
        return y, g, torch.autograd.grad(g, grad, image.detach())[0]

    assert_close(*both(run))


def small_config() -> ModelConfig:
    return ModelConfig(
        z_dim=32, w_dim=32, mapping_layers=2, tri_plane_resolution=32, channel_base=1024, channel_max=64,
        tet_res=16, image_resolution=64, discriminator_channel_base=1024, discriminator_channel_max=64,
        num_half_precision_blocks=0,
    )  # fmt: skip


@pytest.mark.parametrize("recompute", [False, True])
def test_r1_through_the_whole_discriminator(recompute):
    torch.manual_seed(0)
    discriminator = Discriminator(64, 1024, 64, recompute_activations=recompute).cuda()
    images = torch.randn(4, 4, 64, 64, device="cuda", requires_grad=True)
    angles = torch.rand(4, 2, device="cuda")

    def run():
        discriminator.zero_grad(set_to_none=True)
        penalty = r1_penalty(discriminator(images, angles), images).mean()
        penalty.backward()
        return [penalty.detach()] + [p.grad.clone() for p in discriminator.parameters() if p.grad is not None]

    assert_close(*both(run), tolerance=1e-3)


@pytest.mark.parametrize("mirror", [False, True])
def test_whole_generator(mirror):
    """Texture by tiles and fields on lattices inside the generator. TF32 products in the kernels: 2e-3."""
    pytest.importorskip("nvdiffrast")
    import dataclasses

    torch.manual_seed(0)
    config = dataclasses.replace(small_config(), mirror_symmetry=mirror, initial_shape=(0.2, 0.15, 0.3))
    generator = build_generator(config).cuda()
    rasterizer = make_rasterizer(torch.device("cuda"))
    z = torch.randn(2, 2, 32, device="cuda")
    camera = UniformOrbit().sample(4, torch.Generator().manual_seed(0))
    probe = torch.randn(4, 4, 64, 64, device="cuda")

    def run():
        generator.zero_grad(set_to_none=True)
        ws_geo, ws_tex = generator.map(z[0], z[1])
        output = generator(ws_geo, ws_tex, camera, rasterizer)
        loss = (output.render.rgba_B4HW * probe).mean() + output.geometry.sdf_BN.square().mean()
        loss.backward()
        gradients = [p.grad.clone() for p in generator.parameters() if p.grad is not None]
        return [output.geometry.sdf_BN, output.geometry.deform_BN3, *gradients]

    fused, composed = both(run)
    assert_close(fused[:2], composed[:2], tolerance=1e-4)
    norm = torch.stack([g.square().sum() for g in composed[2:]]).sum().sqrt()
    difference = torch.stack(
        [(a - b).square().sum() for a, b in zip(fused[2:], composed[2:], strict=True)]
    ).sum().sqrt()  # fmt: skip
    assert difference / norm < 5e-3


def test_convolution_second_derivative_matches_pytorch():
    from get3d_model.ops.conv import conv2d

    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 9, device="cuda", requires_grad=True)
    weight = torch.randn(6, 8, 3, 3, device="cuda", requires_grad=True)
    results = []
    for function in (conv2d, F.conv2d):
        y = function(x, weight, stride=2)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append((y, g, *torch.autograd.grad(g.square().sum(), (x, weight))))
    assert_close(*results, tolerance=1e-4)


@pytest.mark.parametrize(("hidden", "outputs"), [(3, 1), (2, 3), (1, 21)])
def test_wide_mlp_with_gradients(hidden, outputs):
    """Half precision against the composition in float32, and the composition in half precision is no closer."""
    torch.manual_seed(0)
    layers = wide_layers(10, 256, hidden, outputs, 16).cuda()
    for layer in layers:
        torch.nn.init.normal_(layer.bias, std=0.3)
    parts = [torch.randn(2, points, 4, device="cuda") for points in (300, 131)]
    fixed = torch.randn(431, 6, device="cuda")
    ws = torch.randn(2, len(layers), 16, device="cuda")
    direction = torch.randn(2, 431, outputs, device="cuda")

    def run(dtype):
        half = HalfDomain(dtype)
        leaves = [part.to(dtype).detach().requires_grad_(True) for part in parts]
        w = ws.clone().requires_grad_(True)
        layers.zero_grad()
        rows = PointRows.apply(fixed_tail(fixed, 4), *leaves)
        (out,) = half.leave(wide_mlp(layers, rows, w, half, at_end=6))
        out.backward(direction)
        scale = 1.0 if half.scale is None else half.scale
        gradients = [leaf.grad.float() / scale for leaf in leaves]
        return [out.detach(), *gradients, w.grad, *(p.grad.clone() for p in layers.parameters())]

    ours, exact = run(torch.float16), run(torch.float32)
    with compositions(["networks.wide_mlp"]):
        composed = run(torch.float16)
    for name, a, b, c in zip(range(len(ours)), ours, exact, composed, strict=True):
        scale = b.abs().max() + 1e-12
        error, usual = (a - b).abs().max() / scale, (c - b).abs().max() / scale
        assert error < max(2.0 * usual, 2e-3), (name, float(error), float(usual))
