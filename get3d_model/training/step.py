"""One training step: the three phases, their optimizers and the moving average.

The trainer, the benchmarks and the tests all call this one implementation.

Shape legend: B local batch, H W image size
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from get3d_model.cameras import CameraDistribution
from get3d_model.config import Config, TrainingConfig
from get3d_model.generator import Generator, build_generator
from get3d_model.isosurface.grid import TetrahedralGrid
from get3d_model.networks.discriminator import Discriminator
from get3d_model.rendering.select import make_rasterizer
from get3d_model.training.aside import Aside
from get3d_model.training.checkpoint import TrainedModules
from get3d_model.training.distributed import World
from get3d_model.training.ema import ema_beta, update_ema
from get3d_model.training.gradients import EarlyAverage, GradientFigures, average_gradients
from get3d_model.training.phases import Phases
from get3d_model.training.runner import EagerRunner, Report, Runner


@dataclass(frozen=True)
class TrainingStep:
    """What one step needs; all state is in `modules`."""

    phases: Phases
    modules: TrainedModules
    world: World
    config: TrainingConfig

    def step(
        self,
        real_B4HW: Tensor,
        angles_B2: Tensor,
        index: int,
        class_B: Tensor | None = None,
        leave_open: bool = False,
    ) -> Report:
        """Trains on one batch; returns scalars that are still on the device, so nothing waits for it.

        real_B4HW: RGB in [-1, 1] and silhouette in [0, 1]; angles_B2: radians, as `RenderedDataset` gives them.
        class_B: int64 classes of the images, for a class-conditional model.
        index: number of the step from 0. Everything random in it is a function of (seed, index, rank).
        leave_open: the discriminators' part and the moving average may still run when the next step begins. Call
        `finish` before reading the scalars, the weights or the optimizers' state.
        """
        config, modules, phases = self.config, self.modules, self.phases
        random = torch.Generator().manual_seed(step_seed(config.seed, index, self.world.rank))

        modules.generator_optimizer.zero_grad(set_to_none=True)
        report = phases.generator_main(len(real_B4HW), random)
        generator = self._update(modules.generator_optimizer, phases.early_generator)

        modules.discriminator_optimizer.zero_grad(set_to_none=True)
        report |= phases.discriminator_main(real_B4HW, angles_B2, random, class_B)
        with phases.aside.running(generator, gradients_of(modules.discriminator)):
            discriminator = self._update(modules.discriminator_optimizer, phases.early_discriminator)
            report["gradients/generator_norm"] = generator.norm
            report["gradients/discriminator_norm"] = discriminator.norm
            replaced = generator.replaced + discriminator.replaced

        if config.r1_gamma > 0 and index % config.r1_interval == 0:
            modules.discriminator_optimizer.zero_grad(set_to_none=True)
            report |= phases.discriminator_r1(real_B4HW, angles_B2, class_B)
            with phases.aside.running(gradients_of(modules.discriminator)):
                r1 = self._update(modules.discriminator_optimizer, phases.early_discriminator)
                report["gradients/r1_norm"] = r1.norm
                replaced = replaced + r1.replaced
        report["gradients/replaced_count"] = replaced

        images_seen = (index + 1) * config.batch_size
        beta = ema_beta(config.batch_size, config.ema_half_life_kimg, images_seen, config.ema_rampup)
        with phases.aside.running():
            update_ema(modules.generator_ema, modules.generator, beta)
        if not leave_open:
            self.finish()
        return report

    def finish(self) -> None:
        """What is issued from now on sees the whole of the last step. The host does not wait."""
        self.phases.aside.join()

    @torch.no_grad()
    def synchronise(self) -> None:
        """Averages w_avg, the only weight that each rank computes from its own samples, over the ranks.

        A moving average is linear in what it averages: the mean of the ranks' is that of all samples together.
        """
        for generator in (self.modules.generator, self.modules.generator_ema):
            for mapping in (generator.mapping, generator.mapping_geo):
                self.world.average(mapping.w_avg, "the average of w")

    def _update(self, optimizer: torch.optim.Optimizer, early: EarlyAverage | None = None) -> GradientFigures:
        figures = average_gradients(optimizer.param_groups[0]["params"], self.world, early)
        optimizer.step()
        return figures


def build_training_step(
    config: Config,
    world: World,
    cameras: CameraDistribution,
    grid: TetrahedralGrid | None = None,
    class_share_K: Tensor | None = None,
) -> TrainingStep:
    """Networks with the same initial weights on every rank, their optimizers and the moving average, on the rank's device.

    class_share_K: how often generated shapes are of each class, for a class-conditional model.
    grid: the generator's, where it has one of its own (see `build_generator`).
    """
    training, model, device = config.training, config.model, world.device
    torch.manual_seed(training.seed)
    generator = build_generator(model, grid).to(device)
    # Uncovered pixels show this bias. Started at the real images' background, the discriminator cannot tell
    # the first images by their background, nor the generator paint it with surfaces.
    torch.nn.init.constant_(generator.synthesis.to_rgb.bias, training.background)
    half_blocks = model.num_half_precision_blocks
    discriminator = Discriminator(
        model.image_resolution,
        model.discriminator_channel_base,
        model.discriminator_channel_max,
        half_blocks,
        model.activation_clamp if half_blocks else None,
        num_classes=model.num_classes,
        recompute_activations=training.recompute_activations,
    ).to(device)
    for module in (generator, discriminator):
        world.broadcast(module)
    # Lazy regularisation: Adam sees interval + 1 gradients per interval (StyleGAN2, appendix B).
    ratio = training.r1_interval / (training.r1_interval + 1)
    fused = True if device.type == "cuda" else None
    modules = TrainedModules(
        generator,
        copy.deepcopy(generator).eval().requires_grad_(False),
        discriminator,
        torch.optim.Adam(
            generator.parameters(), lr=training.generator_lr, betas=(0.0, 0.99), eps=1e-8, fused=fused
        ),
        torch.optim.Adam(
            discriminator.parameters(),
            lr=training.discriminator_lr * ratio,
            betas=(0.0, 0.99**ratio),
            eps=1e-8,
            fused=fused,
        ),
    )
    half_dtype = torch.bfloat16 if device.type == "cuda" and half_blocks else torch.float32
    if device.type == "cuda":
        # Shapes never change, so the fastest algorithm of every convolution is worth a search.
        torch.backends.cudnn.benchmark = True
    phases = Phases(
        generator, discriminator, make_rasterizer(device), cameras, training, half_dtype, class_share_K,
        make_runner(device, training), make_aside(device, training),
        make_early(generator, world), make_early(discriminator, world),
    )  # fmt: skip
    return TrainingStep(phases, modules, world, training)


def make_runner(device: torch.device, training: TrainingConfig) -> Runner:
    """Recorded graphs on CUDA, where launching kernels one by one is what takes the time."""
    if device.type != "cuda" or not training.cuda_graphs:
        return EagerRunner()
    from get3d_model.training.cuda_graphs import GraphRunner

    # Who has activations made again is short of memory.
    return GraphRunner(side_by_side=not training.recompute_activations)


def make_aside(device: torch.device, training: TrainingConfig) -> Aside:
    """A second stream where parts are recorded: there their memory is set apart anyway. Without recordings the allocator
    would keep what the discriminators need beside what the generator needs, instead of one after the other."""
    return Aside(device if training.cuda_graphs else None)


def make_early(network: Generator | Discriminator, world: World) -> EarlyAverage | None:
    """Of several GPUs: for the parameters whose gradients are there first."""
    if world.size == 1 or world.device.type != "cuda":
        return None
    return EarlyAverage(network.first_to_have_gradients(), world)


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed per (run, step, rank)."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1
