"""The three phases of a training step: each builds its losses and leaves gradients in the parameters.

Source: GET3D (Gao et al. 2022), section 3.3 and appendix; StyleGAN2 training loop (lazy R1).

Shape legend: B images of a batch, S shapes of a batch, Z latent width, D w width, L layers (copies of w),
H W image size, K classes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from get3d_model.cameras import CameraDistribution
from get3d_model.config import TrainingConfig
from get3d_model.generator import Generator
from get3d_model.losses.adversarial import (
    discriminator_logistic_fake,
    discriminator_logistic_real,
    generator_logistic,
    r1_penalty,
)
from get3d_model.losses.flexicubes import crossing_distance_deviation, mean_square_weights
from get3d_model.losses.sdf import sdf_sign_cross_entropy
from get3d_model.networks.discriminator import Discriminator
from get3d_model.rendering.base import Rasterizer
from get3d_model.training.aside import Aside
from get3d_model.training.gradients import EarlyAverage
from get3d_model.training.runner import EagerRunner, Loss, Report, Runner, Started
from get3d_model.transfer import to_device
from get3d_model.types import Camera, GeneratorFields, GeneratorOutput


@dataclass(frozen=True)
class Draws:
    """Everything random in a batch of generated images, on the CPU: the same run on every device.

    z_4SZ: geometry, texture, and the two that are mixed in. cut_2: the first layer of geometry and texture that
    takes the mixed-in style; their number of layers where nothing is mixed. camera: of every image.
    class_S: of a class-conditional model, else None.
    """

    z_4SZ: Tensor
    cut_2: Tensor
    camera: Camera
    class_S: Tensor | None


@dataclass(frozen=True)
class Front:
    """What the networks make of latents. w_geo_SD, w_tex_SD: before mixing."""

    fields: GeneratorFields
    w_geo_SD: Tensor
    w_tex_SD: Tensor


@dataclass(frozen=True)
class FakeBatch:
    """Generated images and what they were made from; image b shows shape b // views_per_shape.

    front: the networks' part; call its `backward` after differentiating the images. angles_B2: as the discriminators
    see them. class_S, class_B: of a class-conditional model, else None.
    """

    front: Started[Front]
    output: GeneratorOutput
    angles_B2: Tensor
    class_S: Tensor | None
    class_B: Tensor | None

    @property
    def rgba_B4HW(self) -> Tensor:
        return self.output.render.rgba_B4HW


@dataclass(frozen=True)
class Phases:
    """The networks of a run and the objects chosen once from the configuration.

    class_share_K: how often generated shapes are of each class of a class-conditional model, on the CPU.
    runner: how the parts with fixed shapes run.
    aside: where the discriminators' phases and updates run: join it before using their gradients, weights or reports.
    early_generator, early_discriminator: of several ranks, average those gradients that are there before the others.
    """

    generator: Generator
    discriminator: Discriminator
    rasterizer: Rasterizer
    cameras: CameraDistribution
    config: TrainingConfig
    half_dtype: torch.dtype
    class_share_K: Tensor | None = None
    runner: Runner = field(default_factory=EagerRunner)
    aside: Aside = field(default_factory=Aside)
    early_generator: EarlyAverage | None = None
    early_discriminator: EarlyAverage | None = None

    def generator_main(self, batch: int, random: torch.Generator) -> Report:
        """Gmain: non-saturating loss on both discriminators and the SDF regularisers."""
        fake = self.fake(batch, random)
        output = fake.output
        # So far nothing needed the discriminators: their last update may have run beside all this.
        self.aside.join()
        gradient_B4HW, report = self.runner.input_gradient(
            "generator loss", self._generator_loss, (fake.rgba_B4HW.detach(), fake.angles_B2, fake.class_B)
        )
        edges_E2 = self.generator.synthesis.extractor.grid.edges_E2
        sdf_loss = sdf_sign_cross_entropy(output.geometry.sdf_BN, edges_E2)
        empty_loss = output.geometry.empty_regulariser_B.mean()
        isosurface_loss, isosurface_report = self.isosurface_regularizers(output)
        regularizers = self.config.sdf_regularizer_weight * sdf_loss + empty_loss + isosurface_loss
        torch.autograd.backward([fake.rgba_B4HW, regularizers], [gradient_B4HW, None])
        fake.front.backward()
        return {
            **report,
            "loss/sdf_regularizer": sdf_loss.detach(),
            "loss/empty_regularizer": empty_loss.detach(),
            **isosurface_report,
            "shapes/empty_fraction": output.geometry.empty_B.float().mean(),
            "shapes/triangles": torch.tensor(len(output.meshes.faces_F3) / len(output.meshes)),
        }

    def _generator_loss(
        self, rgba_B4HW: Tensor, angles_B2: Tensor, class_B: Tensor | None
    ) -> tuple[Tensor, Report]:
        """What the discriminators say of generated images; for the images' gradient only."""
        with frozen(self.discriminator):
            logits = self.discriminator(rgba_B4HW, angles_B2, self.half_dtype, class_B)
        rgb_loss = generator_logistic(logits[0]).mean()
        mask_loss = generator_logistic(logits[1]).mean()
        report = {"loss/generator_rgb": rgb_loss.detach(), "loss/generator_mask": mask_loss.detach()}
        return rgb_loss + mask_loss, report

    def isosurface_regularizers(self, output: GeneratorOutput) -> tuple[Tensor | float, Report]:
        """(weighted sum, unweighted terms) of what the isosurface's own parameters need; DMTet has none."""
        deviation, weights_BQ21 = output.surface.edge_deviation, output.geometry.weights_BQ21
        if deviation is None or weights_BQ21 is None:
            return 0.0, {}
        deviation_loss = crossing_distance_deviation(deviation.deviation_D7, deviation.used_D7)
        weights_loss = mean_square_weights(weights_BQ21)
        total = (
            self.config.flexicubes_deviation_weight * deviation_loss
            + self.config.flexicubes_weights_weight * weights_loss
        )
        return total, {
            "loss/flexicubes_deviation": deviation_loss.detach(),
            "loss/flexicubes_weights": weights_loss.detach(),
        }

    def discriminator_main(
        self,
        real_B4HW: Tensor,
        angles_B2: Tensor,
        random: torch.Generator,
        class_B: Tensor | None = None,
    ) -> Report:
        """Dmain: logistic loss on generated and real images, for both discriminators."""
        with torch.no_grad():
            fake = self.fake(len(real_B4HW), random)
            made = fake.front.outputs
            self.generator.mapping_geo.update_w_avg(made.w_geo_SD, fake.class_S)
            self.generator.mapping.update_w_avg(made.w_tex_SD, fake.class_S)
        inputs = (
            fake.rgba_B4HW, fake.angles_B2, fake.class_B, real_B4HW, self.condition(angles_B2), class_B
        )  # fmt: skip
        return self._discriminator_gradients("discriminator loss", self._discriminator_loss, inputs)

    def _discriminator_loss(
        self,
        fake_B4HW: Tensor,
        fake_angles_B2: Tensor,
        fake_class_B: Tensor | None,
        real_B4HW: Tensor,
        real_angles_B2: Tensor,
        real_class_B: Tensor | None,
    ) -> tuple[Tensor, Report]:
        # Generated and real images share the passes through the layers.
        logits = self.discriminator(
            torch.cat([fake_B4HW, real_B4HW]),
            torch.cat([fake_angles_B2, real_angles_B2]),
            self.half_dtype,
            None if real_class_B is None else torch.cat([fake_class_B, real_class_B]),
            batches=2,
        )
        fake, real = zip(*(item.chunk(2) for item in logits), strict=True)
        fake_loss = sum(discriminator_logistic_fake(item).mean() for item in fake)
        real_loss = sum(discriminator_logistic_real(item).mean() for item in real)
        return fake_loss + real_loss, {
            "loss/discriminator_fake": fake_loss.detach(),
            "loss/discriminator_real": real_loss.detach(),
            "signs/real_rgb": real[0].detach().sign().mean(),
            "signs/real_mask": real[1].detach().sign().mean(),
            "signs/fake_rgb": fake[0].detach().sign().mean(),
            "signs/fake_mask": fake[1].detach().sign().mean(),
        }

    def discriminator_r1(self, real_B4HW: Tensor, angles_B2: Tensor, class_B: Tensor | None = None) -> Report:
        """Dreg: lazy R1 on both discriminators, scaled by the interval."""
        inputs = (real_B4HW, self.condition(angles_B2), class_B)
        return self._discriminator_gradients("R1", self._r1_loss, inputs)

    def _discriminator_gradients(self, name: str, loss: Loss, inputs: Sequence[Any]) -> Report:
        parameters = list(self.discriminator.parameters())
        with self.aside.running(inputs):
            return self.runner.gradients(name, loss, inputs, parameters, self.early_discriminator)

    def _r1_loss(self, real_B4HW: Tensor, angles_B2: Tensor, class_B: Tensor | None) -> tuple[Tensor, Report]:
        images = real_B4HW.detach().requires_grad_(True)
        logits = self.discriminator(images, angles_B2, self.half_dtype, class_B)
        penalty = r1_penalty(logits, images).mean()
        return penalty * (self.config.r1_gamma / 2 * self.config.r1_interval), {"loss/r1": penalty.detach()}

    def fake(self, batch: int, random: torch.Generator) -> FakeBatch:
        """`batch` generated images, `views_per_shape` of each shape."""
        generator, views = self.generator, self.config.views_per_shape
        device = generator.mapping.w_avg.device
        draws = self.draw(batch, random)
        class_S = None if draws.class_S is None else to_device(draws.class_S, device)
        # Everything about the cameras goes ahead of the networks (the matrices are kept): once the mesh's size is known,
        # the device waits for the host.
        camera = draws.camera.to(device)
        _ = camera.world2clip_B44
        front = self.runner.start(
            "front",
            self._front,
            (to_device(draws.z_4SZ, device), to_device(draws.cut_2, device), class_S),
            list(generator.parameters()),
            self.early_generator,
        )
        output = generator.image(front.outputs.fields, camera, self.rasterizer)
        class_B = None if class_S is None else class_S.repeat_interleave(views, output_size=batch)
        angles_B2 = self.condition(camera.angles_B2)
        return FakeBatch(front, output, angles_B2, class_S, class_B)

    def draw(self, batch: int, random: torch.Generator) -> Draws:
        """The random numbers of a batch; with and without mixing the same ones."""
        shapes, z_dim = batch // self.config.views_per_shape, self.generator.z_dim
        z_2SZ = torch.randn(2, shapes, z_dim, generator=random)
        class_S = self._classes(shapes, random)
        cuts, others = [], []
        for layers in (self.generator.num_ws_geo, self.generator.num_ws_tex):
            cut = int(torch.randint(1, layers, (), generator=random)) if layers > 1 else layers
            mixes = float(torch.rand((), generator=random)) < self.config.style_mixing_probability
            others.append(torch.randn(shapes, z_dim, generator=random))
            cuts.append(cut if mixes else layers)
        return Draws(
            torch.cat([z_2SZ, torch.stack(others)]),
            torch.tensor(cuts),
            self.cameras.sample(batch, random),
            class_S,
        )

    def _front(self, z_4SZ: Tensor, cut_2: Tensor, class_S: Tensor | None) -> Front:
        generator = self.generator
        # Those that are mixed in go through the layers with the others: half as many launches.
        both_S = None if class_S is None else class_S.repeat(2)
        ws_geo, ws_tex = generator.map(z_4SZ[0::2].flatten(0, 1), z_4SZ[1::2].flatten(0, 1), class_B=both_S)
        (ws_geo, other_geo), (ws_tex, other_tex) = ws_geo.chunk(2), ws_tex.chunk(2)
        fields = generator.fields(
            mix_styles(ws_geo, other_geo, cut_2[0]), mix_styles(ws_tex, other_tex, cut_2[1]), self.half_dtype
        )
        return Front(fields, ws_geo[:, 0], ws_tex[:, 0])

    def _classes(self, shapes: int, random: torch.Generator) -> Tensor | None:
        """Classes as frequent as those of the real images, on the CPU; None for a model without."""
        if self.class_share_K is None:
            return None
        return torch.multinomial(self.class_share_K, shapes, replacement=True, generator=random)

    def condition(self, angles_B2: Tensor) -> Tensor:
        """Camera angles as the discriminators see them (constant when conditioning is off)."""
        return angles_B2 if self.config.camera_conditioning else torch.zeros_like(angles_B2)


def mix_styles(ws_SLD: Tensor, other_SLD: Tensor, cut: Tensor) -> Tensor:
    """Style mixing (Karras et al. 2019, section 3.1): the other ws from layer `cut` on."""
    layer_L1 = torch.arange(ws_SLD.shape[1], device=ws_SLD.device)[:, None]
    return torch.where(layer_L1 < cut, ws_SLD, other_SLD)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters of a module without gradients inside the block."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
