"""Regularisers of FlexiCubes, unweighted.

Source: Shen et al. 2023 (FlexiCubes), regularisers; GET3D weighs them 0.5 and 0.1.

Shape legend: D dual vertices of a batch, 7 slots for the edges of a dual vertex's patch
"""

from __future__ import annotations

from torch import Tensor


def crossing_distance_deviation(deviation_D7: Tensor, used_D7: Tensor) -> Tensor:
    """L_dev: the mean, over all edges of all dual vertices of the batch, of how far the distance between vertex
    and crossing lies from that vertex's mean distance. Zero without vertices. World units."""
    return deviation_D7.sum() / used_D7.sum().clamp(min=1)


def mean_square_weights(raw_weights_BQ21: Tensor) -> Tensor:
    """The mean square of the raw weights: pulls FlexiCubes towards plain dual marching cubes."""
    return raw_weights_BQ21.square().mean()
