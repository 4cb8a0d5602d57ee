"""Does a generator repeat its training set? What is nearest to each sample, and how near compared with new shapes.

A sample that is near a training shape is no copy yet: so may a held-out shape be, which nobody copied. What counts is
whether samples are systematically nearer than held-out shapes are. Source: Meehan, Chaudhuri and Dasgupta 2020, "A
Non-Parametric Test to Detect Data-Copying in Generative Models", whose Mann-Whitney statistic is given here as the
probability behind it.

Shape legend: S samples, R held-out, T training, D values of a picture, K resamples
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.metrics.bootstrap import Bootstrap, Interval

# Side of the pictures that are compared, in pixels: shape and colours stay, edges by a pixel do not matter.
PICTURE_SIZE = 32
# Pairs of pictures at a time.
BLOCK = 1 << 22


def copying_probability(
    sample_distance_S: np.ndarray, held_out_distance_R: np.ndarray, bootstrap: Bootstrap
) -> Interval:
    """Probability that a sample is nearer to its nearest training shape than a held-out shape is to its own.

    0.5: as near as new shapes are; 1: every sample is nearer than any held-out shape, so they are copies. Ties count
    half. nan where either set is empty.
    """
    if not len(sample_distance_S) or not len(held_out_distance_R):
        return Interval(math.nan, math.nan, math.nan)

    def statistic(i_KS: np.ndarray, j_KR: np.ndarray) -> np.ndarray:
        return np.array(
            [
                _nearer(sample_distance_S[i], np.sort(held_out_distance_R[j]))
                for i, j in zip(i_KS, j_KR, strict=True)
            ]
        )

    return bootstrap.interval(statistic, [len(sample_distance_S), len(held_out_distance_R)])


def _nearer(sample_S: np.ndarray, sorted_R: np.ndarray) -> float:
    not_nearer = np.searchsorted(sorted_R, sample_S, side="left")
    ties = np.searchsorted(sorted_R, sample_S, side="right") - not_nearer
    return float(1.0 - (not_nearer + 0.5 * ties).mean() / len(sorted_R))


def picture_vectors(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Batches of uint8 BHW3 pictures as rows ND float32 in [0, 1], scaled down to 32 x 32 pixels."""
    rows = []
    for images_BHW3 in batches:
        images = torch.from_numpy(np.ascontiguousarray(images_BHW3.transpose(0, 3, 1, 2))).float() / 255.0
        small = F.interpolate(images, (PICTURE_SIZE, PICTURE_SIZE), mode="bilinear", antialias=True)
        rows.append(small.flatten(1).numpy())
    return np.concatenate(rows) if rows else np.zeros((0, 3 * PICTURE_SIZE**2), np.float32)


def nearest_pictures(
    first_SD: np.ndarray, training_TD: np.ndarray, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training picture of each of the first: its index S and the distance S, the root mean square
    difference of pixel values in [0, 1]. Raises ValueError without training pictures."""
    if not len(training_TD):
        raise ValueError("there are no training pictures to compare with")
    training = torch.from_numpy(training_TD).to(device)
    squares_T = training.square().sum(dim=1)
    index, distance = [], []
    for block_BD in torch.from_numpy(first_SD).split(max(1, BLOCK // len(training_TD))):
        block = block_BD.to(device)
        nearest_B = (squares_T - 2.0 * block @ training.T).argmin(dim=1)
        index.append(nearest_B.cpu())
        distance.append(_rms(block, training[nearest_B]).cpu())
    if not index:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    return torch.cat(index).numpy(), torch.cat(distance).numpy()


def _rms(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    return (a_BD - b_BD).square().mean(dim=1).sqrt()
