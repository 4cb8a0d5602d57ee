"""Kernel distance between two sets of features (KID), and its interval.

Source: Binkowski et al. 2018, "Demystifying MMD GANs": the unbiased squared maximum mean discrepancy with the kernel
(x.y / D + 1)^3, mean over random subsets. The number is torchmetrics'.

Shape legend: N M images, D features, S images of a subset, K resamples
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.inception import GivenFeatures

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_inception_distance(
    real_ND: np.ndarray, fake_MD: np.ndarray, device: torch.device, seed: int = 0
) -> float:
    """KID by torchmetrics: mean over 100 subsets of 1000 images, or of as many as the smaller set has.

    Raises ValueError for fewer than two images of a kind.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    if min(len(real_ND), len(fake_MD)) < 2:
        raise ValueError(f"KID needs two images of each kind, got {len(real_ND)} and {len(fake_MD)}")
    subsets, size = subset_counts(len(real_ND), len(fake_MD))
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(
            feature=GivenFeatures(real_ND.shape[1]), subsets=subsets, subset_size=size
        ).to(device)
        # torchmetrics draws its subsets from the global generator.
        torch.manual_seed(seed)
        for features, real in ((real_ND, True), (fake_MD, False)):
            metric.update(torch.from_numpy(features).double().to(device), real=real)
        return float(metric.compute()[0])


def subset_counts(real: int, fake: int) -> tuple[int, int]:
    """How many subsets KID is averaged over, and of how many images; where every subset is the whole, one is enough."""
    size = min(SUBSET_SIZE, real, fake)
    return (1 if size == real == fake else SUBSETS), size


def kid_interval(
    real_ND: np.ndarray, fake_MD: np.ndarray, bootstrap: Bootstrap, device: torch.device, seed: int = 0
) -> Interval:
    """KID with its interval.

    Up to 2000 images of a kind: from halves of both sets. More: from disjoint subsets of 1000, whose mean is KID too
    and whose spread is that of independent values.
    """
    value = kernel_inception_distance(real_ND, fake_MD, device, seed)
    smaller = min(len(real_ND), len(fake_MD))
    if smaller < 4:
        return Interval(value, math.nan, math.nan)
    real = torch.from_numpy(real_ND).double().to(device)
    fake = torch.from_numpy(fake_MD).double().to(device)
    rng = np.random.default_rng(seed)
    real, fake = (x[torch.from_numpy(rng.permutation(len(x))).to(device)] for x in (real, fake))
    limit = 2 * SUBSET_SIZE
    if smaller > limit:
        starts = range(0, smaller - SUBSET_SIZE + 1, SUBSET_SIZE)
        blocks = [slice(first, first + SUBSET_SIZE) for first in starts]
        interval = bootstrap.mean([squared_mmd(*_kernels(real[b], fake[b])) for b in blocks])
    else:
        real, fake = real[:limit], fake[:limit]
        kernels = [kernel.cpu().numpy() for kernel in _kernels(real, fake)]

        def statistic(i_KN: np.ndarray, j_KM: np.ndarray) -> np.ndarray:
            xx, xy, yy = kernels
            return np.array(
                [
                    squared_mmd(
                        *map(torch.from_numpy, (xx[np.ix_(i, i)], xy[np.ix_(i, j)], yy[np.ix_(j, j)]))
                    )
                    for i, j in zip(i_KN, j_KM, strict=True)
                ]
            )

        interval = bootstrap.interval(statistic, [len(real), len(fake)], neighbors=True)
    shift = value - interval.value
    return Interval(value, interval.low + shift, interval.high + shift)


def squared_mmd(xx_NN: Tensor, xy_NM: Tensor, yy_MM: Tensor) -> float:
    """The unbiased estimate from the kernel's values within and between the sets."""
    n, m = xy_NM.shape
    within_x = (xx_NN.sum() - xx_NN.diagonal().sum()) / (n * (n - 1))
    within_y = (yy_MM.sum() - yy_MM.diagonal().sum()) / (m * (m - 1))
    return float(within_x + within_y - 2.0 * xy_NM.mean())


def _kernels(real_ND: Tensor, fake_MD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """NN, NM, MM."""
    width = real_ND.shape[1]

    def kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
        return (a_ND @ b_MD.T / width + 1.0) ** 3

    return kernel(real_ND, real_ND), kernel(real_ND, fake_MD), kernel(fake_MD, fake_MD)
