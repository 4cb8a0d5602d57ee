"""Fréchet distance between two sets of features (FID), and its interval.

Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule". The number is torchmetrics'. The interval
needs the distance of many halves. There the trace of (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of
L^T S2 L, where L L^T = S1; or, of few images, of the singular values of A B^T, where A^T A = S1 and B^T B = S2 (centred
features over sqrt(n - 1), or a square root of the covariance, whichever is smaller).

Shape legend: N M images, D features, R min(N, D) rows of a root
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.inception import GivenFeatures


def frechet_inception_distance(real_ND: np.ndarray, fake_MD: np.ndarray, device: torch.device) -> float:
    """FID by torchmetrics, in float64. Raises ValueError for fewer than two images of a kind."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check(real_ND, fake_MD)
    metric = FrechetInceptionDistance(feature=GivenFeatures(real_ND.shape[1])).to(device)
    for features, real in ((real_ND, True), (fake_MD, False)):
        metric.update(torch.from_numpy(features).double().to(device), real=real)
    return float(metric.compute())


def fid_interval(
    real_ND: np.ndarray,
    fake_MD: np.ndarray,
    bootstrap: Bootstrap,
    device: torch.device,
    progress: Callable[[int], None] = lambda resamples: None,
) -> Interval:
    """FID with its interval from halves of both sets. progress: told the resamples done since its last call.

    Raises ValueError for fewer than two images of a kind.
    """
    value = frechet_inception_distance(real_ND, fake_MD, device)
    if min(len(real_ND), len(fake_MD)) < 4:
        return Interval(value, math.nan, math.nan)
    real = torch.from_numpy(real_ND).double().to(device)
    fake = torch.from_numpy(fake_MD).double().to(device)

    def statistic(i_KN: np.ndarray, j_KM: np.ndarray) -> np.ndarray:
        found = []
        for i, j in zip(torch.from_numpy(i_KN), torch.from_numpy(j_KM), strict=True):
            found.append(frechet_distance(real[i.to(device)], fake[j.to(device)]))
            progress(1)
        return np.array(found)

    interval = bootstrap.interval(statistic, [len(real_ND), len(fake_MD)], neighbors=True)
    shift = value - interval.value
    return Interval(value, max(0.0, interval.low + shift), interval.high + shift)


def frechet_distance(first_ND: Tensor, second_MD: Tensor) -> float:
    """Squared Fréchet distance between the Gaussians with the means and covariances of two float64 sets."""
    mean_term = (first_ND.mean(dim=0) - second_MD.mean(dim=0)).square().sum()
    if min(len(first_ND), len(second_MD)) > first_ND.shape[1]:
        (first_DD, second_DD) = (c_ND.T @ c_ND for c_ND in (_centered(first_ND), _centered(second_MD)))
        lower_DD, failed = torch.linalg.cholesky_ex(first_DD)
        # Features that are always nought leave it singular.
        if not failed:
            shared_D = torch.linalg.eigvalsh(lower_DD.T @ second_DD @ lower_DD).clamp_min(0.0).sqrt()
            return float(mean_term + first_DD.trace() + second_DD.trace() - 2.0 * shared_D.sum())
    root1_RD, root2_RD = _root(first_ND), _root(second_MD)
    traces = root1_RD.square().sum() + root2_RD.square().sum()
    shared = torch.linalg.svdvals(root1_RD @ root2_RD.T).sum()
    return float(mean_term + traces - 2.0 * shared)


def _root(features_ND: Tensor) -> Tensor:
    """RD whose product with itself is the covariance."""
    count, width = features_ND.shape
    centered_ND = _centered(features_ND)
    if count <= width:
        return centered_ND
    values_D, vectors_DD = torch.linalg.eigh(centered_ND.T @ centered_ND)
    return values_D.clamp_min(0.0).sqrt()[:, None] * vectors_DD.T


def _centered(features_ND: Tensor) -> Tensor:
    """ND whose product with itself is the covariance."""
    return (features_ND - features_ND.mean(dim=0)) / math.sqrt(len(features_ND) - 1)


def _check(real_ND: np.ndarray, fake_MD: np.ndarray) -> None:
    if min(len(real_ND), len(fake_MD)) < 2:
        raise ValueError(f"FID needs two images of each kind, got {len(real_ND)} and {len(fake_MD)}")
