"""The backbone: how many ws there are, and what each of them moves."""

from __future__ import annotations

import pytest
import torch

from get3d_model.networks.synthesis import TriPlaneSynthesis, block_channels, block_resolutions


@pytest.fixture(scope="module")
def synthesis() -> TriPlaneSynthesis:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TriPlaneSynthesis(8, 16, 4, 128, 16).requires_grad_(False)


def test_sizes() -> None:
    assert block_resolutions(64) == [4, 8, 16, 32, 64]
    assert [block_channels(r, 1024, 64) for r in (4, 16, 32, 256)] == [64, 64, 32, 4]


def test_counts_of_ws(synthesis: TriPlaneSynthesis) -> None:
    """Geometry: conv1 and togeo at 4, then conv0, conv1 and togeo; texture: one totex each."""
    assert (synthesis.num_ws_geo, synthesis.num_ws_tex) == (2 + 3 + 3, 3)
    published = TriPlaneSynthesis(8, 256, 1, 512, 2)
    assert (published.num_ws_geo, published.num_ws_tex) == (20, 7)


def test_which_planes_a_w_moves(synthesis: TriPlaneSynthesis) -> None:
    random = torch.Generator().manual_seed(1)
    ws_geo, ws_tex = torch.randn(2, 8, 8, generator=random), torch.randn(2, 3, 8, generator=random)
    geo, tex = synthesis(ws_geo, ws_tex)
    assert geo.shape == tex.shape == (2, 12, 16, 16)
    for layer in range(3):
        moved = ws_tex.clone()
        moved[0, layer] += 1
        geo_moved, tex_moved = synthesis(ws_geo, moved)
        assert torch.equal(geo_moved, geo), "texture must not move geometry"
        assert not torch.allclose(tex_moved[0], tex[0]) and torch.equal(tex_moved[1], tex[1])
    for layer in range(8):
        moved = ws_geo.clone()
        moved[0, layer] += 1
        geo_moved, tex_moved = synthesis(moved, ws_tex)
        assert not torch.allclose(geo_moved[0], geo[0])
        # The convolutions are shared, the togeo heads (layers 1, 4, 7) are not.
        assert torch.allclose(tex_moved[0], tex[0]) == (layer in (1, 4, 7))
        assert torch.allclose(geo_moved[1], geo[1], atol=1e-5)
