"""The generator as a whole, at a tiny size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from get3d_model.cameras import turntable
from get3d_model.generator import Generator, build_generator, initial_sdf
from get3d_model.mesh_topology import mesh_topology
from get3d_model.rendering.cpu import CpuRasterizer
from tests.serving.tiny import MODEL


def make(**changes: object) -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_generator(dataclasses.replace(MODEL, **changes)).eval().requires_grad_(False)


def codes(generator: Generator, seed: int = 1, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(2, batch, 16, generator=torch.Generator().manual_seed(seed))
    return generator.map(z[0], z[1])


def test_one_pass() -> None:
    generator = make()
    output = generator(*codes(generator), turntable(4), CpuRasterizer())
    assert output.render.rgba_B4HW.shape == (4, 4, 16, 16)
    assert len(output.meshes) == 4
    mask = output.render.mask_B1HW
    assert mask.min() >= 0 and mask.max() <= 1 and 0.05 < mask.mean() < 0.95
    deform = output.geometry.deform_BN3
    assert deform.abs().max() <= generator.synthesis.max_deformation == 1 / 8
    for index in range(4):
        if not output.geometry.empty_B[index]:
            topology = mesh_topology(output.meshes.mesh(index))
            assert topology.faces > 0 and topology.winding_consistent


def test_uncovered_pixels_have_the_background_colour() -> None:
    generator = make(initial_shape=(0.2, 0.2, 0.2))
    generator.synthesis.to_rgb.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    output = generator(*codes(generator), turntable(4), CpuRasterizer())
    outside = (output.render.mask_B1HW == 0).expand(-1, 3, -1, -1)
    background = torch.tensor([0.1, 0.2, 0.3])[None, :, None, None].expand_as(output.render.rgb_B3HW)
    assert outside.any() and torch.allclose(output.render.rgb_B3HW[outside], background[outside])


def test_shapes_of_a_batch_do_not_depend_on_each_other() -> None:
    generator = make()
    ws_geo, ws_tex = codes(generator)
    camera, rasterizer = turntable(4), CpuRasterizer()
    together = generator(ws_geo, ws_tex, camera, rasterizer)
    alone = generator(ws_geo[2:3], ws_tex[2:3], camera[slice(2, 3)], rasterizer)
    assert torch.allclose(alone.geometry.sdf_BN[0], together.geometry.sdf_BN[2], atol=1e-5)
    difference = (alone.render.rgba_B4HW[0] - together.render.rgba_B4HW[2]).abs()
    assert difference.max() < 1e-2


def test_texture_codes_do_not_move_geometry() -> None:
    generator = make()
    ws_geo, ws_tex = codes(generator)
    camera, rasterizer = turntable(4), CpuRasterizer()
    first = generator(ws_geo, ws_tex, camera, rasterizer)
    second = generator(ws_geo, ws_tex + 1, camera, rasterizer)
    assert torch.equal(first.geometry.sdf_BN, second.geometry.sdf_BN)
    assert torch.equal(first.render.mask_B1HW, second.render.mask_B1HW)
    assert not torch.allclose(first.render.rgb_B3HW, second.render.rgb_B3HW)


def test_nothing_but_weights_is_stored() -> None:
    """Grids, tables and priors are rebuilt from the configuration."""
    names = set(make().state_dict())
    parameters = {name for name, _ in make().named_parameters()}
    assert {name.rpartition(".")[2] for name in names - parameters} == {"w_avg", "noise_const"}


def test_initial_shape() -> None:
    half = (0.2, 0.1, 0.4)
    points = torch.tensor(
        [[0.0, 0, 0], [0.2, 0, 0], [0, -0.1, 0], [0, 0, 0.4], [0.4, 0, 0], [0.1, 0.05, 0.2]]
    )
    expected = [1.0, 0.0, 0.0, 0.0, -1.0, 1 - 3**0.25 / 2]
    assert initial_sdf(points, half).tolist() == pytest.approx(expected, abs=1e-6)
    assert initial_sdf(points, None).tolist() == [0.0] * 6


def test_mirror_symmetry() -> None:
    """SDF, deformation and colour of a point are those of its mirror image."""
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    points = torch.rand(4, 50, 3, generator=torch.Generator().manual_seed(2)) - 0.5
    for symmetric in (True, False):
        generator = make(mirror_symmetry=symmetric)
        ws_geo, ws_tex = codes(generator)
        synthesis = generator.synthesis
        planes_geo, planes_tex = synthesis.planes(ws_geo, ws_tex)
        raw = synthesis.raw_geometry(planes_geo, ws_geo)
        sdf_BN, deform_BN3 = raw.sdf_BN, raw.deform_BN3
        vertices_N3 = synthesis.extractor.grid.vertices_N3
        distance, image_N = torch.cdist(vertices_N3 * mirror, vertices_N3).min(dim=1)
        assert distance.max() == 0
        colors = [synthesis.point_colors(planes_tex, p, ws_tex) for p in (points, points * mirror)]
        assert torch.allclose(sdf_BN[:, image_N], sdf_BN, atol=1e-6) == symmetric
        assert torch.allclose(deform_BN3[:, image_N] * mirror, deform_BN3, atol=1e-6) == symmetric
        assert torch.allclose(*colors, atol=1e-5) == symmetric
    on_plane = vertices_N3[:, 0] == 0
    assert on_plane.any()
    assert (make(mirror_symmetry=True).synthesis.deform_scale_N3[on_plane, 0] == 0).all()
