"""The three phases of a training step: each builds its losses and leaves gradients in the parameters.

Source: GET3D (Gao et al. 2022), section 3.3 and appendix; StyleGAN2 training loop (lazy R1).

Shape legend: B images of a batch, S shapes of a batch, Z latent width, D w width, L layers (copies of w),
H W image size, K classes
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
from get3d_model.types import GeneratorOutput

Report = dict[str, Tensor]


@dataclass(frozen=True)
class FakeBatch:
    """Generated images and what they were made from; image b shows shape b // views_per_shape.

    angles_B2: as the discriminators see them. w_geo_SD, w_tex_SD: before mixing. class_S, class_B: of a
    class-conditional model, else None.
    """

    output: GeneratorOutput
    angles_B2: Tensor
    w_geo_SD: Tensor
    w_tex_SD: Tensor
    class_S: Tensor | None
    class_B: Tensor | None

    @property
    def rgba_B4HW(self) -> Tensor:
        return self.output.render.rgba_B4HW


@dataclass(frozen=True)
class Phases:
    """The networks of a run and the objects chosen once from the configuration.

    class_share_K: how often generated shapes are of each class of a class-conditional model, on the CPU.
    """

    generator: Generator
    discriminator: Discriminator
    rasterizer: Rasterizer
    cameras: CameraDistribution
    config: TrainingConfig
    half_dtype: torch.dtype
    class_share_K: Tensor | None = None

    def generator_main(self, batch: int, random: torch.Generator) -> Report:
        """Gmain: non-saturating loss on both discriminators and the SDF regularisers."""
        fake = self.fake(batch, random)
        output = fake.output
        with frozen(self.discriminator):
            logits = self.discriminator(fake.rgba_B4HW, fake.angles_B2, self.half_dtype, fake.class_B)
        rgb_loss = generator_logistic(logits[0]).mean()
        mask_loss = generator_logistic(logits[1]).mean()
        edges_E2 = self.generator.synthesis.extractor.grid.edges_E2
        sdf_loss = sdf_sign_cross_entropy(output.geometry.sdf_BN, edges_E2)
        empty_loss = output.geometry.empty_regulariser_B.mean()
        isosurface_loss, isosurface_report = self.isosurface_regularizers(output)
        sdf_term = self.config.sdf_regularizer_weight * sdf_loss
        (rgb_loss + mask_loss + sdf_term + empty_loss + isosurface_loss).backward()
        return {
            "loss/generator_rgb": rgb_loss.detach(),
            "loss/generator_mask": mask_loss.detach(),
            "loss/sdf_regularizer": sdf_loss.detach(),
            "loss/empty_regularizer": empty_loss.detach(),
            **isosurface_report,
            "shapes/empty_fraction": output.geometry.empty_B.float().mean(),
            "shapes/triangles": torch.tensor(len(output.meshes.faces_F3) / len(output.meshes)),
        }

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
            made = self.fake(len(real_B4HW), random)
            self.generator.mapping_geo.update_w_avg(made.w_geo_SD, made.class_S)
            self.generator.mapping.update_w_avg(made.w_tex_SD, made.class_S)
        # Generated and real images share the passes through the layers.
        logits = self.discriminator(
            torch.cat([made.rgba_B4HW, real_B4HW]),
            torch.cat([made.angles_B2, self.condition(angles_B2)]),
            self.half_dtype,
            None if class_B is None else torch.cat([made.class_B, class_B]),
            batches=2,
        )
        fake, real = zip(*(item.chunk(2) for item in logits), strict=True)
        fake_loss = sum(discriminator_logistic_fake(item).mean() for item in fake)
        real_loss = sum(discriminator_logistic_real(item).mean() for item in real)
        (fake_loss + real_loss).backward()
        return {
            "loss/discriminator_fake": fake_loss.detach(),
            "loss/discriminator_real": real_loss.detach(),
            "signs/real_rgb": real[0].detach().sign().mean(),
            "signs/real_mask": real[1].detach().sign().mean(),
            "signs/fake_rgb": fake[0].detach().sign().mean(),
            "signs/fake_mask": fake[1].detach().sign().mean(),
        }

    def discriminator_r1(self, real_B4HW: Tensor, angles_B2: Tensor, class_B: Tensor | None = None) -> Report:
        """Dreg: lazy R1 on both discriminators, scaled by the interval."""
        images = real_B4HW.detach().requires_grad_(True)
        logits = self.discriminator(images, self.condition(angles_B2), self.half_dtype, class_B)
        penalty = r1_penalty(logits, images).mean()
        (penalty * (self.config.r1_gamma / 2 * self.config.r1_interval)).backward()
        return {"loss/r1": penalty.detach()}

    def fake(self, batch: int, random: torch.Generator) -> FakeBatch:
        """`batch` generated images, `views_per_shape` of each shape."""
        generator, views = self.generator, self.config.views_per_shape
        device = generator.mapping.w_avg.device
        # Drawn on the CPU: the same run on every device.
        z_2SZ = torch.randn(2, batch // views, generator.z_dim, generator=random).to(device)
        class_S = self._classes(batch // views, random)
        class_S = None if class_S is None else class_S.to(device)
        ws_geo, ws_tex = generator.map(z_2SZ[0], z_2SZ[1], class_B=class_S)
        w_geo_SD, w_tex_SD = ws_geo[:, 0], ws_tex[:, 0]
        ws_geo = self._mix(ws_geo, generator.mapping_geo, random, class_S)
        ws_tex = self._mix(ws_tex, generator.mapping, random, class_S)
        camera = self.cameras.sample(batch, random)
        output = generator(ws_geo, ws_tex, camera, self.rasterizer, self.half_dtype)
        class_B = None if class_S is None else class_S.repeat_interleave(views, output_size=batch)
        angles_B2 = self.condition(camera.angles_B2.to(device))
        return FakeBatch(output, angles_B2, w_geo_SD, w_tex_SD, class_S, class_B)

    def _classes(self, shapes: int, random: torch.Generator) -> Tensor | None:
        """Classes as frequent as those of the real images, on the CPU; None for a model without."""
        if self.class_share_K is None:
            return None
        return torch.multinomial(self.class_share_K, shapes, replacement=True, generator=random)

    def _mix(
        self, ws_BLD: Tensor, mapping: nn.Module, random: torch.Generator, class_B: Tensor | None = None
    ) -> Tensor:
        """Style mixing: from a random layer on, with the configured probability, another w of the same class."""
        layers = ws_BLD.shape[1]
        cut = int(torch.randint(1, layers, (), generator=random)) if layers > 1 else layers
        mixes = float(torch.rand((), generator=random)) < self.config.style_mixing_probability
        z_BZ = torch.randn(len(ws_BLD), self.generator.z_dim, generator=random)
        if not mixes or cut == layers:
            return ws_BLD
        other_BD = mapping(z_BZ.to(ws_BLD.device), class_B=class_B)
        return torch.cat([ws_BLD[:, :cut], other_BD[:, None].expand(-1, layers - cut, -1)], dim=1)

    def condition(self, angles_B2: Tensor) -> Tensor:
        """Camera angles as the discriminators see them (constant when conditioning is off)."""
        return angles_B2 if self.config.camera_conditioning else torch.zeros_like(angles_B2)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters of a module without gradients inside the block."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
