"""A tiny, randomly initialised checkpoint: everything real but the training."""

from __future__ import annotations

from pathlib import Path

import torch

from get3d_model.config import Config, ModelConfig, RenderConfig, ServingConfig, config_to_dict
from get3d_model.generator import build_generator
from get3d_model.inference import GENERATOR_FILE
from get3d_model.weights import save_tensors

MODEL = ModelConfig(
    z_dim=16,
    w_dim=16,
    mapping_layers=2,
    tri_plane_resolution=16,
    channel_base=256,
    channel_max=16,
    mlp_width=16,
    tet_res=8,
    initial_shape=(0.45, 0.4, 0.35),
    image_resolution=16,
    discriminator_channel_base=256,
    discriminator_channel_max=16,
)
CONFIG = Config(
    name="tiny",
    render=RenderConfig(resolution=16),
    model=MODEL,
    serving=ServingConfig(texture_resolution=64, truncation_psi=0.7, max_batch_size=8),
)


def write_checkpoint(folder: Path, seed: int = 0, config: Config = CONFIG) -> Path:
    """The weight file in `folder`; another seed is another model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = build_generator(config.model)
    path = folder / GENERATOR_FILE
    description = {"config": config_to_dict(config), "kimg": 0.0, "dataset_sha256": "0" * 64}
    save_tensors(generator.state_dict(), path, description)
    return path
