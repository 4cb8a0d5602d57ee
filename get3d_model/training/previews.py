"""Pictures of a run: a grid of real images, and grids of generated ones over its course."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from get3d_model.cameras import preview_cameras
from get3d_model.config import Config
from get3d_model.data.dataset import RenderedDataset, to_training_tensor
from get3d_model.image_grid import save_image, tile
from get3d_model.inference import Sampler

COLUMNS, ROWS = 8, 4


def save_generated(out: Path, sampler: Sampler, images_seen: int) -> None:
    """`images/fakes_<images seen>.png`: fixed seeds over columns and rows, at cameras that go around."""
    count = COLUMNS * ROWS
    camera = preview_cameras(sampler.config.cameras.orbit, count, start_rad=math.radians(30.0))
    pictures = []
    for first in range(0, count, COLUMNS):
        styles = sampler.styles(range(first, first + COLUMNS))
        pictures.append(sampler.render(styles, camera[slice(first, first + COLUMNS)])[..., :3])
    save_image(tile(np.concatenate(pictures), COLUMNS), out / "images" / f"fakes_{images_seen:09d}.png")


def save_real(out: Path, dataset: RenderedDataset, config: Config) -> None:
    """`images/reals.png`: training images from all over the data set, as the discriminator sees them."""
    indices = np.linspace(0, len(dataset) - 1, COLUMNS * ROWS).astype(int)
    rgb = to_training_tensor(dataset.read_batch(indices).rgba_B4HW, config.training.background)[:, :3]
    pictures = ((rgb + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    save_image(tile(pictures, COLUMNS), out / "images" / "reals.png")
