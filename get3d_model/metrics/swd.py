"""Sliced Wasserstein distance between two sets of images, level by level of their Laplacian pyramids (SWD).

Needs no network and no download, so it can watch a training run on any machine. It compares small patches: texture,
contrast and outlines at each scale. It does not know shapes; two sets of unlike objects with like surfaces are near.

Source: ProGAN (Karras et al. 2018), section 5: levels down to 16 pixels, 128 patches of 7x7 pixels per image and
level, 512 directions. Two differences: patches are normalised by the statistics of the reference alone, so that
lost contrast counts, and the result is not multiplied by 1000.

Shape legend: B batch, C channels, H W image size, P patches per image, N patches of a set, D pixels of a patch,
V values of a patch (D x C), K directions
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 7
SMALLEST_LEVEL = 16
# Of the Gaussian pyramid (Burt and Adelson 1983).
BINOMIAL_TAPS = (1.0, 4.0, 6.0, 4.0, 1.0)

Patches = dict[int, Tensor]
"""Resolution of the level -> patches of a set, NDC: D = PATCH^2 pixels, C channels."""


def laplacian_pyramid(images_BCHW: Tensor) -> list[Tensor]:
    """Band-passed images from full resolution down to 16 pixels; the last level is the low-passed rest.

    Nothing is lost: up-sampling the rest and adding the next level, again and again, gives the images back.
    Raises ValueError for images below 16 pixels.
    """
    if min(images_BCHW.shape[2:]) < SMALLEST_LEVEL:
        raise ValueError(f"images must have {SMALLEST_LEVEL} pixels a side, got {tuple(images_BCHW.shape)}")
    levels = []
    current = images_BCHW
    while min(current.shape[2:]) >= 2 * SMALLEST_LEVEL:
        smaller = _blur(current)[:, :, ::2, ::2]
        levels.append(current - upsample(smaller))
        current = smaller
    return [*levels, current]


def upsample(images_BCHW: Tensor) -> Tensor:
    """Doubles the size of a pyramid level: zeros between the pixels, then the filter with gain 4."""
    batch, channels, height, width = images_BCHW.shape
    doubled = images_BCHW.new_zeros(batch, channels, 2 * height, 2 * width)
    doubled[:, :, ::2, ::2] = images_BCHW
    return _blur(doubled) * 4.0


def image_patches(batches: Iterable[Tensor], patches_per_image: int = 128, seed: int = 0) -> Patches:
    """Patches at random places of every pyramid level of every image.

    batches: images BCHW float32 on one device, any number of batches. The places depend on the seed, the level
    and the number of the image in the set only, so equal sets give equal patches however they are batched.
    """
    parts: dict[int, list[Tensor]] = {}
    randoms: dict[int, torch.Generator] = {}
    for images_BCHW in batches:
        for level_BCHW in laplacian_pyramid(images_BCHW):
            batch, channels, height, width = level_BCHW.shape
            random = randoms.setdefault(height, torch.Generator().manual_seed(seed + height))
            unit_2BP = torch.stack(
                [torch.rand(2, patches_per_image, generator=random) for _ in range(batch)], dim=1
            ).to(level_BCHW.device)
            y_BP = (unit_2BP[0] * (height - PATCH + 1)).long()
            x_BP = (unit_2BP[1] * (width - PATCH + 1)).long()
            inside = torch.arange(PATCH, device=level_BCHW.device)
            image = torch.arange(batch, device=level_BCHW.device)[:, None, None, None]
            # B P 7 7 C: the indexed dimensions come first.
            patches = level_BCHW[
                image, :, y_BP[:, :, None, None] + inside[:, None], x_BP[:, :, None, None] + inside
            ]
            parts.setdefault(height, []).append(patches.reshape(-1, PATCH * PATCH, channels))
    return {resolution: torch.cat(items) for resolution, items in parts.items()}


class SwdReference:
    """The set that others are measured against; what does not change between measurements is kept."""

    def __init__(self, patches: Patches, directions: int = 512, seed: int = 0) -> None:
        """patches: of the reference images, from `image_patches`."""
        self._directions: Patches = {}
        self._statistics: dict[int, tuple[Tensor, Tensor]] = {}
        self._sorted: Patches = {}
        for resolution, patches_NDC in patches.items():
            positions, channels = patches_NDC.shape[1:]
            random = torch.Generator().manual_seed(seed + resolution)
            directions_KV = torch.randn(directions, positions * channels, generator=random)
            self._directions[resolution] = F.normalize(directions_KV, dim=1).to(patches_NDC.device)
            # Per channel; a constant channel has nothing to be scaled by.
            std_C, mean_C = torch.std_mean(patches_NDC, dim=(0, 1), correction=0)
            self._statistics[resolution] = (mean_C, std_C.clamp_min(1e-4))
            self._sorted[resolution] = self._project(resolution, patches_NDC)

    def distances(self, patches: Patches) -> dict[int, float]:
        """Distance at each level, by resolution; in standard deviations of the reference's pixels, 0 for equal sets.

        Raises ValueError when the number of patches differs from the reference's.
        """
        result = {}
        for resolution, reference_KN in self._sorted.items():
            patches_NDC = patches[resolution]
            if len(patches_NDC) != reference_KN.shape[1]:
                raise ValueError(
                    f"{len(patches_NDC)} patches against {reference_KN.shape[1]}; the sets must be of one size"
                )
            # In one dimension the optimal transport pairs the sorted values.
            result[resolution] = (self._project(resolution, patches_NDC) - reference_KN).abs().mean()
        return {resolution: float(value) for resolution, value in result.items()}

    def _project(self, resolution: int, patches_NDC: Tensor) -> Tensor:
        """Values along every direction, sorted; KN."""
        mean_C, std_C = self._statistics[resolution]
        normalised_NV = ((patches_NDC - mean_C) / std_C).flatten(1)
        return (self._directions[resolution] @ normalised_NV.T).sort(dim=1).values


def _blur(images_BCHW: Tensor) -> Tensor:
    """The 5x5 binomial filter; mirrored at the border."""
    taps = torch.tensor(BINOMIAL_TAPS, device=images_BCHW.device, dtype=images_BCHW.dtype) / 16.0
    channels = images_BCHW.shape[1]
    padded = F.pad(images_BCHW, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
