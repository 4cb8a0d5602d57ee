"""The metrics on a GPU against the metrics on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.lfd import lfd_descriptors
from get3d_model.metrics.lfd_distance import lfd_matrix
from get3d_model.metrics.nearest import FusedNearestDistance, MatrixProductDistance
from get3d_model.metrics.nearest_cpu import CpuNearestDistance
from get3d_model.metrics.select import make_nearest_distance
from tests.get3d_model.metrics.test_chamfer import clouds
from tests.get3d_model.metrics.test_lfd import (
    lamp_shape,
    random_descriptors,
    random_rotation,
    table_shape,
    turned,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
CUDA = torch.device("cuda")


@pytest.mark.parametrize(("points", "others"), [(2048, 2048), (300, 77), (1, 5)])
def test_every_implementation_of_the_nearest_point(points: int, others: int) -> None:
    references, samples = clouds(3, points, 0), clouds(5, others, 1)
    expected = chamfer_matrix(references, samples, nearest=CpuNearestDistance())
    for nearest in (FusedNearestDistance(), MatrixProductDistance(), make_nearest_distance(CUDA)):
        result = chamfer_matrix(references.to(CUDA), samples.to(CUDA), nearest=nearest)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    one = references[:1].to(CUDA)
    assert float(chamfer_matrix(one, one.clone(), nearest=FusedNearestDistance())) == 0.0


def test_light_field_distances_are_the_same_numbers() -> None:
    references, samples = random_descriptors(7, 0), random_descriptors(21, 1)
    samples[3], samples[4] = 255, 0
    assert np.array_equal(lfd_matrix(references, samples, CUDA), lfd_matrix(references, samples))
    assert np.array_equal(lfd_matrix(samples, samples, CUDA), lfd_matrix(samples, samples))
    # Whatever the trainer allows, the sums are exact.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert np.array_equal(lfd_matrix(references, samples, CUDA), lfd_matrix(references, samples))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_descriptors_of_pictures_drawn_on_the_gpu() -> None:
    shapes = [
        (str(i), turned(shape, random_rotation(i)))
        for i, shape in enumerate([table_shape(), lamp_shape()] * 4)
    ]
    drawn, ours = dict(lfd_descriptors(shapes, CUDA)), dict(lfd_descriptors(shapes))
    assert list(drawn) == list(ours)
    other = lfd_matrix(ours["0"][None], ours["1"][None])[0, 0]
    for name in ours:
        assert (np.abs(drawn[name].astype(int) - ours[name]) > 2).mean() < 0.005
        assert lfd_matrix(drawn[name][None], ours[name][None])[0, 0] < 0.03 * other
