"""Kernels that replace many small launches, against the PyTorch compositions that define them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from get3d_model.cameras import UniformOrbit
from get3d_model.ops.finite import make_finite
from get3d_model.ops.half_domain import HalfDomain
from get3d_model.ops.linear import equalized_linear
from get3d_model.ops.modulated_conv import demodulation
from get3d_model.ops.modulated_conv3d import modulated_conv3d
from get3d_model.ops.scaled_weight import scaled_weight
from get3d_model.rendering.surface import clip_positions
from get3d_model.types import PackedMeshes
from tests.get3d_model.ops.compositions import compositions

MODULES = (
    "ops.finite", "ops.linear", "ops.modulated_conv", "ops.modulated_conv3d", "ops.scaled_weight", "rendering.surface",
)  # fmt: skip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def composed(function: Callable[[], list[Tensor]]) -> list[Tensor]:
    with compositions(MODULES):
        return function()


def assert_close(ours: list[Tensor], reference: list[Tensor], tolerance: float = 1e-5) -> None:
    for mine, theirs in zip(ours, reference, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("rows, inputs, outputs", [(4, 512, 512), (8, 70, 37), (29, 1024, 96)])
@pytest.mark.parametrize("activate", [False, True])
def test_linear_layer_with_both_derivatives(
    rows: int,
    inputs: int,
    outputs: int,
    activate: bool,
) -> None:
    torch.manual_seed(0)
    # A slice of all layers' styles, as the affine layers get it.
    x = torch.randn(rows, 3, inputs, device="cuda")[:, 1].requires_grad_()
    weight = torch.randn(outputs, inputs, device="cuda", requires_grad=True)
    bias = torch.randn(outputs, device="cuda", requires_grad=True)
    grad = torch.randn(rows, outputs, device="cuda")

    def run() -> list[Tensor]:
        leaves = [x, weight, bias]
        out = equalized_linear(*leaves, 0.05, 0.3, activate)
        first = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        again = torch.autograd.grad(out, leaves, grad, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in again), [x, weight])
        return [out.detach(), *first, *(g.detach() for g in again), *second]

    assert_close(run(), composed(run))


@pytest.mark.parametrize("shape", [(512, 512, 3, 3), (64, 48, 3, 3, 3), (40, 72)])
def test_demodulation_with_its_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, device="cuda", requires_grad=True)
    style = torch.randn(9, shape[1], device="cuda", requires_grad=True)
    grad = torch.randn(9, shape[0], device="cuda")

    def run() -> list[Tensor]:
        scale = demodulation(weight, style, 0.4)
        return [scale.detach(), *torch.autograd.grad(scale, [weight, style], grad)]

    assert_close(run(), composed(run))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 0.03)])
def test_modulated_volume_layer_with_its_gradients(
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """In float16 a value near zero may get the other slope, so gradients are compared by their norms."""
    torch.manual_seed(0)
    x = torch.randn(3, 48, 12, 12, 12, device="cuda").contiguous(memory_format=torch.channels_last_3d)
    leaves = [
        x, torch.randn(64, 48, 3, 3, 3, device="cuda"), torch.randn(3, 48, device="cuda"), torch.randn(64, device="cuda"),
    ]  # fmt: skip
    for leaf in leaves:
        leaf.requires_grad_()
    grad = torch.randn(3, 64, 12, 12, 12, device="cuda") * 1e-6

    def run() -> list[Tensor]:
        half = HalfDomain(dtype)
        (out,) = half.leave(modulated_conv3d(half.enter(leaves[0]), *leaves[1:], half))
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        ours, reference = run(), composed(run)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    for mine, theirs in zip(ours, reference, strict=True):
        assert (mine - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.parametrize("shape", [(96, 130, 3, 3), (32, 3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_change_layout_exactly(
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    weight = torch.randn(shape, device="cuda", requires_grad=True)
    grad = torch.randn(shape, device="cuda").to(dtype, memory_format=torch.channels_last)

    def run() -> list[Tensor]:
        out = scaled_weight(weight, 0.3, dtype)
        return [out.detach(), *torch.autograd.grad(out, weight, grad)]

    ours, reference = run(), composed(run)
    assert ours[0].is_contiguous(memory_format=torch.channels_last) and ours[1].is_contiguous()
    assert torch.equal(ours[0], reference[0])
    # The composition rounds the product to the gradient's type before it converts.
    assert (ours[1] - reference[1]).abs().max() <= torch.finfo(dtype).eps * reference[1].abs().max()


@pytest.mark.parametrize("counts", [[5, 0, 3000, 0], [0, 0, 7], [900]])
def test_clip_positions_with_their_gradients(counts: list[int]) -> None:
    count = torch.tensor(counts, dtype=torch.int32)
    ranges = torch.stack([count.cumsum(0, dtype=torch.int32) - count, count], dim=1)
    camera = UniformOrbit().sample(len(counts), torch.Generator().manual_seed(0))
    vertices = torch.randn(sum(counts), 3, device="cuda", requires_grad=True)
    grad = torch.randn(sum(counts), 4, device="cuda")
    faces = torch.zeros(0, 3, dtype=torch.int32, device="cuda")

    def run() -> list[Tensor]:
        clip = clip_positions(PackedMeshes(vertices, faces, ranges, ranges), camera)
        return [clip.detach(), *torch.autograd.grad(clip, vertices, grad)]

    assert_close(run(), composed(run), 2e-6)


def test_gradients_made_finite_in_place() -> None:
    torch.manual_seed(0)
    sizes = (1, 4096, 4097, 100_003)
    values = [torch.randn(size) for size in sizes]
    values[0][0], values[2][4096], values[3][77], values[3][-1] = torch.nan, torch.inf, -torch.inf, 3e6
    ours = [value.cuda() for value in values]
    theirs = [value.cuda() for value in values]
    norm, replaced = make_finite(ours)
    expected_norm, expected = composed(lambda: list(make_finite(theirs)))
    assert int(replaced) == int(expected) == 3
    assert float(norm) == pytest.approx(float(expected_norm), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
