"""The fused kernel of nearest points against float64 and brute force: on a GPU, or by Triton's interpreter.

Without a GPU it runs where the package triton is and TRITON_INTERPRET=1 is set: slow, but the same kernel.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (INTERPRETED or (HAS_TRITON and DEVICE.type == "cuda")),
        reason="NOT RUN: the fused nearest points need Triton with a GPU, or TRITON_INTERPRET=1",
    ),
]


def brute_force(points_SP3: Tensor, others_SQ3: Tensor) -> tuple[Tensor, Tensor]:
    square_SPQ = (points_SP3.double()[:, :, None] - others_SQ3.double()[:, None]).square().sum(dim=-1)
    return square_SPQ.amin(dim=2), square_SPQ.amin(dim=1)


@pytest.mark.parametrize(
    ("pairs", "shared", "points", "others"),
    [(2, True, 300, 77), (3, False, 513, 16), (2, True, 7, 300), (2, False, 256, 8), (1, True, 1, 1)],
)
def test_both_directions_against_brute_force(pairs: int, shared: bool, points: int, others: int) -> None:
    """Sizes on either side of the blocks; a set that all pairs share, and one for each."""
    from get3d_model.ops.fused.nearest import nearest_squared

    generator = torch.Generator().manual_seed(points)
    points_SP3 = torch.rand(1 if shared else pairs, points, 3, generator=generator) - 0.5
    others_SQ3 = torch.rand(pairs, others, 3, generator=generator) - 0.5
    found = nearest_squared(points_SP3.to(DEVICE), others_SQ3.to(DEVICE))
    expected = brute_force(points_SP3, others_SQ3)
    for ours, truth in zip(found, expected, strict=True):
        assert ours.shape == truth.shape and ours.dtype == torch.float32
        torch.testing.assert_close(ours.cpu().double(), truth, rtol=1e-5, atol=1e-9)


def test_a_point_is_at_nought_from_itself() -> None:
    from get3d_model.ops.fused.nearest import nearest_squared

    points_SP3 = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for squares in nearest_squared(points_SP3, points_SP3.flip(1)):
        assert float(squares.abs().max()) == 0.0
