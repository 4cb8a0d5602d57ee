"""Both generators with both isosurfaces: one pass, names, gradients, the training phase, a mesh."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from get3d_model.cameras import UniformOrbit, turntable
from get3d_model.config import GENERATORS, ISOSURFACES, ModelConfig, TrainingConfig
from get3d_model.errors import InputError
from get3d_model.generator import Generator, build_generator
from get3d_model.networks.discriminator import Discriminator
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.training.phases import Phases
from tests.serving.tiny import MODEL

VARIANTS = list(itertools.product(GENERATORS, ISOSURFACES))
BATCH = 2


def config(generator: str, isosurface: str) -> ModelConfig:
    return dataclasses.replace(
        MODEL, generator=generator, isosurface=isosurface, volume_channel_base=256, volume_channel_max=16
    )


def make(generator: str, isosurface: str) -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_generator(config(generator, isosurface))


def one_pass(generator: Generator, seed: int = 1):
    z = torch.randn(2, BATCH, 16, generator=torch.Generator().manual_seed(seed))
    return generator(*generator.map(z[0], z[1]), turntable(BATCH), CpuRasterizer())


def geometry_heads(generator: Generator, kind: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The networks whose last layers give the SDF and the deformation."""
    synthesis = generator.synthesis
    if kind == "unified":
        return synthesis.generator.mlp_synthesis_sdf, synthesis.generator.mlp_synthesis_def
    return synthesis.geometry_synthesis_sdf, synthesis.geometry_synthesis_def


@pytest.fixture(params=VARIANTS, ids="-".join)
def variant(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


def test_one_pass(variant: tuple[str, str]) -> None:
    generator = make(*variant).eval()
    with torch.no_grad():
        output = one_pass(generator)
    assert output.render.rgba_B4HW.shape == (BATCH, 4, 16, 16) and len(output.meshes) == BATCH
    assert 0.05 < output.render.mask_B1HW.mean() < 0.95
    cubes = variant[1] == "flexicubes"
    limit = generator.synthesis.max_deformation
    assert limit == (1 / 16 if cubes else 1 / 8)
    assert output.geometry.deform_BN3.abs().max() <= limit
    assert (output.surface.edge_deviation is not None) == cubes
    assert output.geometry.weights_BQ21 is None or output.geometry.weights_BQ21.shape == (BATCH, 512, 21)
    for index in range(BATCH):
        mesh = output.meshes.mesh(index)
        assert len(mesh.faces_F3) > 20


def test_the_mesh_of_a_known_sdf(variant: tuple[str, str]) -> None:
    """With both heads silenced the initial shape is left: its volume, positive as its faces look outwards."""
    generator = make(*variant).eval().requires_grad_(False)
    for head in geometry_heads(generator, variant[0]):
        head.layers[-1].weight.zero_()
    mesh = one_pass(generator).meshes.mesh(0)
    corners_F33 = mesh.vertices_V3[mesh.faces_F3].astype(np.float64)
    volume = (
        np.einsum("fi,fi->f", corners_F33[:, 0], np.cross(corners_F33[:, 1], corners_F33[:, 2])).sum() / 6
    )
    a, b, c = MODEL.initial_shape
    superellipsoid = 8 * a * b * c * math.gamma(1.25) ** 3 / math.gamma(1.75)
    assert volume == pytest.approx(superellipsoid, rel=0.1)


def test_every_parameter_learns(variant: tuple[str, str]) -> None:
    phases = make_phases(*variant)
    report = phases.generator_main(BATCH, torch.Generator().manual_seed(0))
    assert report["shapes/empty_fraction"] < 1
    for name, parameter in phases.generator.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    reported = {name for name in report if "flexicubes" in name}
    expected = {"loss/flexicubes_deviation", "loss/flexicubes_weights"}
    assert reported == (expected if variant[1] == "flexicubes" else set())


def make_phases(generator: str, isosurface: str, **training: float) -> Phases:
    model = make(generator, isosurface).train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        discriminator = Discriminator(16, 256, 16)
    settings = TrainingConfig(style_mixing_probability=0.0, **training)
    return Phases(model, discriminator, CpuRasterizer(), UniformOrbit(), settings, torch.float32)


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_weights_of_the_flexicubes_regularisers(generator: str) -> None:
    """Each one's gradient is linear in its weight."""

    def gradient(**training: float) -> torch.Tensor:
        phases = make_phases(generator, "flexicubes", **training)
        phases.generator_main(BATCH, torch.Generator().manual_seed(0))
        head = [p.grad for name, p in phases.generator.named_parameters() if "mlp_synthesis_weight" in name]
        return torch.cat([g.flatten() for g in head])

    off = {"flexicubes_deviation_weight": 0.0, "flexicubes_weights_weight": 0.0}
    base = gradient(**off)
    for name in off:
        once, twice = (gradient(**{**off, name: size}) - base for size in (0.5, 1.0))
        assert once.norm() > 0 and torch.allclose(
            twice, 2 * once, rtol=1e-2, atol=1e-3 * float(once.abs().max())
        )


def test_names(variant: tuple[str, str]) -> None:
    """The published roots of the parameter names, and nothing but weights in the state."""
    generator = make(*variant)
    roots = {name.split(".")[1] for name, _ in generator.named_parameters() if name.startswith("synthesis.")}
    separate = {"geometry_synthesis_sdf", "geometry_synthesis_def", "geometry_synthesis_tex", "to_rgb"}
    expected = {"generator", "to_rgb"} if variant[0] == "unified" else separate
    if variant == ("separate", "flexicubes"):
        expected = expected | {"mlp_synthesis_weight"}
    assert roots == expected
    parameters = {name for name, _ in generator.named_parameters()}
    buffers = {name.rpartition(".")[2] for name in set(generator.state_dict()) - parameters}
    assert buffers <= {"w_avg", "noise_const", "noise_strength"}


def test_a_copy_is_independent(variant: tuple[str, str]) -> None:
    """The moving average is a deep copy: its networks must be its own."""
    generator = make(*variant).eval()
    twin = copy.deepcopy(generator)
    with torch.no_grad():
        before = one_pass(twin).geometry.sdf_BN
        for parameter in generator.parameters():
            parameter.zero_()
        assert torch.equal(one_pass(twin).geometry.sdf_BN, before)
        assert not torch.equal(one_pass(generator).geometry.sdf_BN, before)


def test_empty_shapes_are_repaired(variant: tuple[str, str]) -> None:
    """A shape without a sign change still renders; its regulariser pulls on the SDF."""
    model = dataclasses.replace(config(*variant), initial_shape=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = build_generator(model)
    head, _ = geometry_heads(generator, variant[0])
    torch.nn.init.constant_(head.layers[-1].bias, -50.0)
    output = one_pass(generator)
    assert output.geometry.empty_B.all() and len(output.meshes.faces_F3) > 0
    output.geometry.empty_regulariser_B.sum().backward()
    assert head.layers[-1].bias.grad < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": "unifed"}, "generator must be unified or separate, not 'unifed'"),
        ({"isosurface": "mc"}, "isosurface must be dmtet or flexicubes, not 'mc'"),
        ({"isosurface": "flexicubes", "mirror_symmetry": True}, "mirror_symmetry needs isosurface: dmtet"),
        ({"volume_channel_base": 16}, "volume_channel_base must be at least 32, not 16"),
        ({"volume_channel_max": 0}, "volume_channel_max must be at least 1, not 0"),
    ],
)
def test_configuration_errors(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(MODEL, **changes)


def test_mirror_symmetry_of_the_separate_generator() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = dataclasses.replace(config("separate", "dmtet"), mirror_symmetry=True)
        generator = build_generator(model).eval()
    with torch.no_grad():
        geometry = one_pass(generator).geometry
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    vertices_N3 = generator.synthesis.extractor.grid.vertices_N3
    image_N = torch.cdist(vertices_N3 * mirror, vertices_N3).argmin(dim=1)
    assert torch.allclose(geometry.sdf_BN[:, image_N], geometry.sdf_BN, atol=1e-5)
    assert torch.allclose(geometry.deform_BN3[:, image_N] * mirror, geometry.deform_BN3, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_gpu_agrees_with_the_cpu(variant: tuple[str, str]) -> None:
    """Geometry in half precision on the GPU against float32 on the CPU, with the gradients of its networks.

    Width 32: the fused kernels of the published size.
    """
    model = dataclasses.replace(config(*variant), mlp_width=32, tri_plane_features=32, tet_res=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = build_generator(model)
    z = torch.randn(2, BATCH, 16, generator=torch.Generator().manual_seed(1))
    results = []
    for device, half_dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        generator.zero_grad(set_to_none=True)
        generator.to(device)
        synthesis = generator.synthesis
        ws_geo, ws_tex = generator.map(z[0].to(device), z[1].to(device))
        # The unified backbone's half precision is tested elsewhere.
        half_dtype = half_dtype if variant[0] == "separate" else torch.float32
        planes_geo, _ = synthesis.planes(ws_geo, synthesis.texture_styles(ws_geo, ws_tex), half_dtype)
        raw = synthesis.raw_geometry(planes_geo, ws_geo)
        loss = raw.sdf_BN.square().mean() + raw.deform_BN3.square().mean()
        values = [raw.sdf_BN, raw.deform_BN3]
        if raw.weights_BQ21 is not None:
            loss = loss + raw.weights_BQ21.square().mean()
            values.append(raw.weights_BQ21)
        # As small as the regularisers' gradients are: below what float16 holds.
        (loss * 1e-6).backward()
        gradients = {n: p.grad.cpu() for n, p in generator.named_parameters() if p.grad is not None}
        results.append(([v.detach().cpu() for v in values], gradients))
    (cpu_values, cpu_gradients), (gpu_values, gpu_gradients) = results
    for ours, expected in zip(gpu_values, cpu_values, strict=True):
        assert (ours - expected).abs().max() < 0.02 * expected.std()
    assert gpu_gradients.keys() == cpu_gradients.keys()
    # A scalar (a noise strength) sums thousands of terms that may nearly cancel: rounding in another order of additions
    # is not small against what is left of them, so scalars are measured against the whole gradient as well. All
    # others by their own norm alone: the deformation's gradients are small as a whole, and must still be right.
    whole = torch.cat([expected.flatten() for expected in cpu_gradients.values()]).norm()
    for name, expected in cpu_gradients.items():
        limit = 0.05 * expected.norm() + 1e-12
        if expected.numel() == 1:
            limit = max(limit, 1e-3 * whole)
        assert (gpu_gradients[name] - expected).norm() < limit, name
