"""Training metrics as Prometheus sees them: names, units and help, defined once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GaugeDefinition:
    """record: the trainer's name. metric: the Prometheus name, with its unit last."""

    record: str
    metric: str
    help: str


TRAINING_GAUGES = (
    GaugeDefinition("kimg", "get3d_training_kimg", "Thousands of real images shown to the discriminators."),
    GaugeDefinition("sec_per_kimg", "get3d_training_seconds_per_kimg", "Wall time per thousand images."),
    GaugeDefinition("data_wait_s", "get3d_training_data_wait_seconds", "Time waited for images since the last record."),
    GaugeDefinition("loss/generator_rgb", "get3d_training_generator_rgb_loss", "Generator loss, RGB discriminator."),
    GaugeDefinition("loss/generator_mask", "get3d_training_generator_mask_loss", "Generator loss, silhouette discriminator."),
    GaugeDefinition("loss/discriminator_fake", "get3d_training_discriminator_fake_loss", "Discriminator loss, generated images."),
    GaugeDefinition("loss/discriminator_real", "get3d_training_discriminator_real_loss", "Discriminator loss on real images."),
    GaugeDefinition("loss/r1", "get3d_training_r1_penalty", "Unweighted R1 gradient penalty."),
    GaugeDefinition("loss/sdf_regularizer", "get3d_training_sdf_regularizer", "Unweighted SDF cross entropy."),
    GaugeDefinition("gradients/generator_norm", "get3d_training_generator_gradient_norm", "Generator gradient norm."),
    GaugeDefinition("gradients/discriminator_norm", "get3d_training_discriminator_gradient_norm", "Discriminator gradient norm."),
    GaugeDefinition("gradients/replaced_count", "get3d_training_replaced_gradients", "Gradient values replaced as not finite."),
    GaugeDefinition("validation/swd", "get3d_training_validation_swd", "Distance (SWD) to held-out views."),
    GaugeDefinition("signs/real_rgb", "get3d_training_real_rgb_sign", "Mean sign of the RGB discriminator on real images."),
    GaugeDefinition("signs/fake_rgb", "get3d_training_fake_rgb_sign", "Mean sign of the RGB discriminator on generated images."),
    GaugeDefinition("shapes/empty_fraction", "get3d_training_empty_shape_ratio", "Share of generated shapes without a surface."),
    GaugeDefinition("shapes/triangles", "get3d_training_triangles", "Mean triangles per generated shape."),
)  # fmt: skip
