"""The sliced Wasserstein distance against SciPy, and its behaviour on sets whose order is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F

from get3d_model.metrics.swd import SwdReference, image_patches, laplacian_pyramid, upsample

TAPS = np.array([1, 4, 6, 4, 1]) / 16


def pictures(count: int = 12, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Random smooth shapes with sharp edges and fine stripes, in [-1, 1]."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, 3, size, size))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 0, 4, 4))
    stripes = 0.2 * np.sin(np.arange(size) * random.uniform(1.5, 3.0, (count, 1, 1, 1)))
    return torch.from_numpy(np.clip(np.where(smooth > 0, 0.8, -0.8) + stripes, -1, 1)).float()


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(scipy.ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))


def swd(first: torch.Tensor, second: torch.Tensor) -> dict[int, float]:
    return SwdReference(image_patches([first])).distances(image_patches([second]))


def test_the_pyramid_is_burt_and_adelsons_and_loses_nothing() -> None:
    images = pictures(2)
    levels = laplacian_pyramid(images)
    assert [level.shape[-1] for level in levels] == [64, 32, 16]
    kernel = np.outer(TAPS, TAPS)
    plane = images[1, 2].double().numpy()
    small = scipy.ndimage.convolve(plane, kernel, mode="mirror")[::2, ::2]
    zeros = np.zeros_like(plane)
    zeros[::2, ::2] = small
    expected = plane - scipy.ndimage.convolve(zeros, 4 * kernel, mode="mirror")
    np.testing.assert_allclose(levels[0][1, 2].numpy(), expected, atol=1e-6)
    rebuilt = levels[-1]
    for level in reversed(levels[:-1]):
        rebuilt = upsample(rebuilt) + level
    torch.testing.assert_close(rebuilt, images)


def test_every_direction_is_scipys_wasserstein_distance() -> None:
    """With patches of one value per channel there is one direction, up to its sign, in one channel."""
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 500)) * [[1.0], [1.7]] + [[0.3], [-0.4]]
    patches = [{16: torch.from_numpy(x).float().view(-1, 1, 1)} for x in (first, second)]
    distance = SwdReference(patches[0], directions=3).distances(patches[1])[16]
    expected = scipy.stats.wasserstein_distance(
        (first - first.mean()) / first.std(), (second - first.mean()) / first.std()
    )
    assert distance == pytest.approx(expected, rel=1e-4)


def test_patches_are_cut_out_of_the_level() -> None:
    """Where the image is its own coordinates, every patch must hold consecutive ones."""
    grid = torch.arange(16.0)
    image = torch.stack([grid[:, None].expand(16, 16), grid.expand(16, 16)])[None]
    patches = image_patches([image], patches_per_image=200)[16].view(200, 7, 7, 2)
    corner = patches[:, :1, :1]
    offset = torch.stack(torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij"), dim=-1)
    torch.testing.assert_close(patches - corner, offset.expand(200, 7, 7, 2))
    assert corner.min() == 0 and corner.max() == 9, "every place is used, none outside"


def test_equal_sets_are_at_zero_however_they_are_batched() -> None:
    images = pictures()
    reference = SwdReference(image_patches([images]))
    assert reference.distances(image_patches(images.split(5))) == {64: 0.0, 32: 0.0, 16: 0.0}
    other = image_patches([pictures(seed=1)])
    assert reference.distances(other) == reference.distances(other)
    assert SwdReference(image_patches([images])).distances(other) == reference.distances(other)


def test_it_grows_with_blur_and_with_noise() -> None:
    images, fresh = pictures(), pictures(seed=1)
    floor = swd(images, fresh)
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))
    for harms in (
        [blurred(fresh, sigma) for sigma in (0.5, 1.0, 2.0)],
        [fresh + level * noise for level in (0.1, 0.3, 0.6)],
        [fresh * contrast for contrast in (0.8, 0.6, 0.4)],
    ):
        values = [floor] + [swd(images, harmed) for harmed in harms]
        for finer, coarser in itertools.pairwise(values):
            assert coarser[64] > 1.1 * finer[64]


def test_the_level_says_where_the_difference_is() -> None:
    """Fine noise shows at the full resolution; another size of the shapes also at the coarsest."""
    images, fresh = pictures(), pictures(seed=1)
    floor = swd(images, fresh)
    noisy = swd(images, fresh + 0.3 * torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0)))
    assert noisy[64] / floor[64] > 3 * noisy[16] / floor[16]
    larger = F.interpolate(fresh[:, :, 16:48, 16:48], scale_factor=2, mode="bicubic")
    assert swd(images, larger)[16] > 1.5 * floor[16]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="16 pixels"):
        laplacian_pyramid(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="one size"):
        swd(pictures(4), pictures(3))
    constant = torch.zeros(2, 3, 16, 16)
    assert swd(constant, constant) == {16: 0.0}
