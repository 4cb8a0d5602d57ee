"""The validation metric of a run: how far generated views are from held-out views.

Measured by the sliced Wasserstein distance (`get3d_model.metrics.swd`), which needs no discriminator and no
pretrained network. What was held out was never trained on, so a generator that copies its training shapes gains
nothing here. The same seeds, cameras and patches every time: only the weights differ between two measurements.

Shape legend: B batch, H W image size
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from get3d_model.cameras import orbit_camera
from get3d_model.config import Config
from get3d_model.data.base import SampleSource
from get3d_model.data.dataset import RenderedDataset, images_of_split, open_source, to_training_tensor
from get3d_model.inference import Sampler
from get3d_model.metrics.swd import SwdReference, image_patches
from get3d_model.training.classes import dataset_category

SPLIT = "val"
BATCH = 16
KEY = "validation/swd"


class Validator:
    """Measures the moving average of a generator against held-out views, each seen by that view's own camera."""

    def __init__(self, data: Path | SampleSource, config: Config, sampler: Sampler) -> None:
        """sampler: reads the weights that are measured. `images` is 0 where nothing is held out or wanted."""
        self._config, self._sampler = config, sampler
        self._reference: SwdReference | None = None
        self._source = source = open_source(data, category=dataset_category(config.model))
        held_out = len(images_of_split(source, SPLIT)) if SPLIT in source.splits else 0
        self.images = min(config.training.validation_images, held_out)
        self._batch = max(1, min(BATCH, BATCH * 256**2 // config.model.image_resolution**2))

    @property
    def metric(self) -> str:
        """What is measured, on what: values of two metrics of one name can be compared."""
        return f"swd of {self.images} held-out views"

    def measure(self) -> dict[str, float]:
        """The mean over the levels (`validation/swd`) and each level (`validation/swd_RESOLUTION`)."""
        if self._reference is None:
            self._dataset = RenderedDataset(
                self._source,
                SPLIT,
                category=dataset_category(self._config.model),
                threads=self._config.training.data_workers,
                resolution=self._config.model.image_resolution,
            )
            # Evenly over the shapes and their views.
            self._indices = np.linspace(0, len(self._dataset) - 1, self.images).round().astype(int)
            self._reference = SwdReference(image_patches(self._real()))
        distances = self._reference.distances(image_patches(self._generated()))
        levels = {f"{KEY}_{resolution}": value for resolution, value in distances.items()}
        return {KEY: math.fsum(levels.values()) / len(levels), **levels}

    def _real(self) -> Iterator[Tensor]:
        """B3HW in [-1, 1]."""
        for indices in self._batches():
            rgba = self._dataset.read_batch(indices).rgba_B4HW.to(self._sampler.device)
            yield to_training_tensor(rgba, self._config.training.background)[:, :3]

    def _generated(self) -> Iterator[Tensor]:
        """One sample per held-out view, with a seed of its own; B3HW in [-1, 1]."""
        orbit = self._config.cameras.orbit
        seed = 0
        for indices in self._batches():
            angles_B2 = torch.from_numpy(self._dataset.angles_N2[indices])
            camera = orbit_camera(
                angles_B2[:, 0], angles_B2[:, 1], orbit.radius, math.radians(orbit.field_of_view_deg)
            )
            classes = self._dataset.classes_N[indices] if self._config.model.num_classes else None
            styles = self._sampler.styles(range(seed, seed + len(indices)), class_number=classes)
            seed += len(indices)
            rgb_BHW3 = torch.from_numpy(self._sampler.render(styles, camera)[..., :3].copy())
            yield rgb_BHW3.to(self._sampler.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def _batches(self) -> list[np.ndarray]:
        return np.array_split(self._indices, math.ceil(self.images / self._batch))
