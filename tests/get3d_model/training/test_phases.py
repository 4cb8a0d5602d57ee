"""The phases: where gradients go, style mixing, camera conditioning, R1."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from get3d_model.cameras import UniformOrbit
from get3d_model.config import TrainingConfig
from get3d_model.generator import build_generator
from get3d_model.networks.discriminator import Discriminator
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.training.phases import Phases, mix_styles
from tests.serving.tiny import MODEL

BATCH = 4
REAL_B4HW = torch.rand(BATCH, 4, 16, 16, generator=torch.Generator().manual_seed(3))
ANGLES_B2 = torch.rand(BATCH, 2, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def phases() -> Phases:
    return make_phases()


def make_phases(**training: Any) -> Phases:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = build_generator(MODEL)
        discriminator = Discriminator(16, 256, 16)
    config = TrainingConfig(**{"style_mixing_probability": 0.0, **training})
    return Phases(generator, discriminator, CpuRasterizer(), UniformOrbit(), config, torch.float32)


def make_conditional(**training: Any) -> Phases:
    """Three classes; generated shapes are of the first and the last only."""
    model = dataclasses.replace(MODEL, num_classes=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = build_generator(model)
        discriminator = Discriminator(16, 256, 16, num_classes=3)
    config = TrainingConfig(**{"style_mixing_probability": 1.0, **training})
    share_K = torch.tensor([0.5, 0.0, 0.5])
    return Phases(generator, discriminator, CpuRasterizer(), UniformOrbit(), config, torch.float32, share_K)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def without_gradient(module: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]


def test_every_parameter_of_the_generator_learns(phases: Phases) -> None:
    report = phases.generator_main(BATCH, random())
    assert report["shapes/empty_fraction"] < 1, "a generator without a surface cannot be tested"
    assert without_gradient(phases.generator) == []
    assert all(parameter.grad is None for parameter in phases.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in phases.discriminator.parameters())


GEOMETRY = ("mapping_geo.", ".togeo.", "mlp_synthesis_sdf", "mlp_synthesis_def")
TEXTURE = ("mapping.", ".totex.", "mlp_synthesis_tex", "to_rgb")


@pytest.mark.parametrize(("channels", "reached", "untouched"), [
    (slice(3, 4), GEOMETRY, TEXTURE),
    (slice(0, 3), TEXTURE, ()),
])  # fmt: skip
def test_the_silhouette_shapes_and_the_colour_paints(
    channels: slice, reached: tuple[str, ...], untouched: tuple[str, ...], phases: Phases
) -> None:
    """A random target, so that no derivative vanishes by symmetry."""
    fake = phases.fake(BATCH, random())
    image = fake.rgba_B4HW[:, channels]
    (image * torch.randn(image.shape, generator=random(1))).sum().backward()
    fake.front.backward()
    missing = without_gradient(phases.generator)
    names = [name for name, _ in phases.generator.named_parameters()]
    for part in reached:
        matching = [
            name for name in names if name.startswith(part) or part in name.removeprefix("mapping_geo")
        ]
        assert matching, f"no parameter is called {part}"
        assert not [name for name in matching if name in missing], f"no gradient reaches {part}"
    for part in untouched:
        learning = [n for n in names if (n.startswith(part) or part in n) and n not in missing]
        assert not learning, f"{part} has a gradient from the silhouette"


def test_the_discriminator_phase(phases: Phases) -> None:
    w_avg = [m.w_avg.clone() for m in (phases.generator.mapping, phases.generator.mapping_geo)]
    phases.discriminator_main(REAL_B4HW, ANGLES_B2, random())
    assert without_gradient(phases.discriminator) == []
    assert all(parameter.grad is None for parameter in phases.generator.parameters())
    # w_avg follows the mean of the batch: 0.998 of the old value, 0.002 of the new.
    z_2BZ = torch.randn(2, BATCH, MODEL.z_dim, generator=random())
    with torch.no_grad():
        w_geo, w_tex = phases.generator.mapping_geo(z_2BZ[0]), phases.generator.mapping(z_2BZ[1])
    for mapping, before, w in zip(
        (phases.generator.mapping, phases.generator.mapping_geo), w_avg, (w_tex, w_geo), strict=True
    ):
        assert torch.allclose(mapping.w_avg, 0.998 * before + 0.002 * w.mean(dim=0), atol=1e-7)


def test_lazy_r1_is_scaled_by_its_interval() -> None:
    gradients, penalties = [], []
    for interval in (1, 8):
        phases = make_phases(r1_gamma=3.0, r1_interval=interval)
        penalties.append(phases.discriminator_r1(REAL_B4HW, ANGLES_B2)["loss/r1"])
        gradients.append(
            {n: p.grad for n, p in phases.discriminator.named_parameters() if p.grad is not None}
        )
    assert penalties[0] == penalties[1] > 0
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], 8 * gradient, rtol=1e-4, atol=1e-9), name


def test_r1_against_a_finite_difference() -> None:
    """The penalty is the squared slope of the logits, measured along the gradient's own direction."""
    phases = make_phases()
    discriminator, images, angles = phases.discriminator, REAL_B4HW[:1], ANGLES_B2[:1]
    penalty = phases.discriminator_r1(images, angles)["loss/r1"]

    def score(x: Tensor) -> Tensor:
        return sum(item.sum() for item in discriminator(x, angles))

    x = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(x), x)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (score(images + 0.02 * direction) - score(images - 0.02 * direction)) / 0.04
    assert float(penalty) == pytest.approx(float(slope) ** 2, rel=0.05)


def test_style_mixing_changes_only_layers_after_the_cut() -> None:
    ws, other = torch.randn(2, BATCH, 9, MODEL.w_dim)
    for cut in (1, 5, 9):
        mixed = mix_styles(ws, other, torch.tensor(cut))
        assert torch.equal(mixed[:, :cut], ws[:, :cut]) and torch.equal(mixed[:, cut:], other[:, cut:])


def test_the_first_layer_is_never_replaced_and_every_other_one_may_be_the_cut() -> None:
    phases = make_phases(style_mixing_probability=1.0)
    cuts = torch.stack([phases.draw(2, random(seed)).cut_2 for seed in range(200)])
    generator = phases.generator
    for column, layers in zip(cuts.T, (generator.num_ws_geo, generator.num_ws_tex), strict=True):
        assert set(column.tolist()) == set(range(1, layers))


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_how_often_styles_are_mixed(probability: float, low: int, high: int) -> None:
    phases = make_phases(style_mixing_probability=probability)
    layers = phases.generator.num_ws_geo
    mixed = sum(int(phases.draw(1, random(seed)).cut_2[0]) < layers for seed in range(200))
    assert low <= mixed <= high


def test_mixing_does_not_move_the_other_draws() -> None:
    """With and without mixing the same seed gives the same latents and cameras."""
    angles = [make_phases(style_mixing_probability=p).fake(2, random(7)).angles_B2 for p in (0.0, 1.0)]
    assert torch.equal(*angles)


def test_camera_conditioning_can_be_off(phases: Phases) -> None:
    assert torch.equal(phases.condition(ANGLES_B2), ANGLES_B2)
    off = dataclasses.replace(phases, config=TrainingConfig(camera_conditioning=False))
    assert torch.equal(off.condition(ANGLES_B2), torch.zeros_like(ANGLES_B2))


def test_several_views_per_shape() -> None:
    """Four images of two shapes: two latents, four cameras, and the shapes that these latents give."""
    phases = make_phases(views_per_shape=2, batch_size=4)
    fake = phases.fake(4, random(2))
    assert fake.rgba_B4HW.shape == (4, 4, 16, 16) and fake.angles_B2.shape == (4, 2)
    assert (
        len(fake.front.outputs.w_geo_SD) == len(fake.output.meshes) == len(fake.output.geometry.sdf_BN) == 2
    )
    assert len(torch.unique(fake.angles_B2, dim=0)) == 4
    z_2SZ = torch.randn(2, 2, MODEL.z_dim, generator=random(2))
    assert torch.allclose(fake.front.outputs.w_geo_SD, phases.generator.mapping_geo(z_2SZ[0]), atol=1e-5)
    phases.generator_main(4, random())
    assert without_gradient(phases.generator) == []
    phases.discriminator_main(REAL_B4HW, ANGLES_B2, random())
    assert without_gradient(phases.discriminator) == []


def test_a_step_of_a_class_conditional_model() -> None:
    phases = make_conditional(views_per_shape=2, batch_size=4)
    class_B = torch.tensor([0, 1, 2, 2])
    w_avg = phases.generator.mapping.w_avg.clone()
    phases.generator_main(4, random())
    assert without_gradient(phases.generator) == []
    phases.discriminator_main(REAL_B4HW, ANGLES_B2, random(1), class_B)
    assert without_gradient(phases.discriminator) == []
    assert float(phases.discriminator_r1(REAL_B4HW, ANGLES_B2, class_B)["loss/r1"]) > 0
    made = phases.fake(4, random(1))
    changed_K = (phases.generator.mapping.w_avg != w_avg).any(dim=1)
    assert changed_K.tolist() == [k in made.class_S for k in range(3)]
    assert torch.equal(made.class_B, made.class_S.repeat_interleave(2))


def test_generated_classes_are_as_frequent_as_real_ones() -> None:
    classes = make_conditional()._classes(4000, random())
    counts = torch.bincount(classes, minlength=3)
    assert counts[1] == 0 and abs(int(counts[0]) - 2000) < 150
    assert make_phases()._classes(4, random()) is None


def test_a_phase_is_a_function_of_its_seed() -> None:
    first, again, other = (make_phases().generator_main(2, random(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["loss/generator_rgb"] != other["loss/generator_rgb"]
