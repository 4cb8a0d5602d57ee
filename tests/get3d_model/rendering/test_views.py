"""Several views per shape against one view at a time."""

from __future__ import annotations

import pytest
import torch

from get3d_model.cameras import turntable
from get3d_model.generator import Generator, build_generator
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.views import repeat_meshes
from get3d_model.types import PackedMeshes
from tests.serving.tiny import MODEL


def packed() -> PackedMeshes:
    """Meshes of 3, 0 and 4 vertices, of 1, 0 and 2 faces."""
    return PackedMeshes(
        torch.arange(21.0).view(7, 3),
        torch.tensor([[0, 1, 2], [3, 4, 5], [4, 5, 6]], dtype=torch.int32),
        torch.tensor([[0, 3], [3, 0], [3, 4]], dtype=torch.int32),
        torch.tensor([[0, 1], [1, 0], [1, 2]], dtype=torch.int32),
    )


@pytest.mark.parametrize("views", [1, 2, 3])
def test_every_entry_is_its_mesh(views: int) -> None:
    meshes = packed()
    repeated = repeat_meshes(meshes, views)
    assert len(repeated) == 3 * views
    assert repeated.faces_F3.dtype == repeated.face_ranges_B2.dtype == torch.int32
    for image in range(3 * views):
        ours, original = repeated.mesh(image), meshes.mesh(image // views)
        assert (ours.vertices_V3 == original.vertices_V3).all()
        assert (ours.faces_F3 == original.faces_F3).all()
    # In one piece, entry after entry.
    ranges = repeated.vertex_ranges_B2
    assert torch.equal(ranges[:, 0], ranges[:, 1].cumsum(0) - ranges[:, 1])
    assert len(repeated.vertices_V3) == 7 * views and len(repeated.faces_F3) == 3 * views


def test_gradients_of_the_copies_add_up() -> None:
    meshes = packed()
    meshes.vertices_V3.requires_grad_(True)
    repeat_meshes(meshes, 3).vertices_V3.square().sum().backward()
    assert torch.equal(meshes.vertices_V3.grad, 3 * 2 * meshes.vertices_V3.detach())
    with pytest.raises(ValueError, match="at least 1, got 0"):
        repeat_meshes(meshes, 0)


@pytest.fixture(scope="module")
def generator() -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_generator(MODEL)


def test_two_views_are_two_renders(generator: Generator) -> None:
    """Images and gradients of one pass with two cameras per shape, and of one pass for each camera."""
    z = torch.randn(2, 3, MODEL.z_dim, generator=torch.Generator().manual_seed(1))
    camera, weights = turntable(6, start_rad=0.4), torch.randn(6, 4, 16, 16)
    images, gradients = [], []
    for passes in ([slice(0, 6)], [slice(0, 6, 2), slice(1, 6, 2)]):
        generator.zero_grad()
        rgba = torch.empty(6, 4, 16, 16)
        for chosen in passes:
            output = generator(*generator.map(*z), camera[chosen], CpuRasterizer())
            (output.render.rgba_B4HW * weights[chosen]).sum().backward()
            rgba[chosen] = output.render.rgba_B4HW.detach()
        images.append(rgba)
        gradients.append({n: p.grad for n, p in generator.named_parameters() if p.grad is not None})
    assert images[0].std() > 0.05
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = float(gradients[1][name].abs().max()) or 1.0
        assert float((gradient - gradients[1][name]).abs().max()) < 2e-3 * scale, name
