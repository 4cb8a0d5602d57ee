"""Nearest-point distances against float64, and the choice between ours and kaolin's (a stand-in here)."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from scipy.spatial import cKDTree

from get3d_model.errors import InputError
from get3d_model.metrics import kaolin_backend, select
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.nearest import FusedNearestDistance, MatrixProductDistance
from get3d_model.metrics.nearest_cpu import CpuNearestDistance
from get3d_model.metrics.select import make_nearest_distance

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def clouds(sets: int, points: int, seed: int) -> torch.Tensor:
    return torch.rand(sets, points, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


def sided_distance(p1: torch.Tensor, p2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As kaolin documents it: equal batch sizes, squared distances and indices."""
    assert p1.is_contiguous() and p2.is_contiguous() and len(p1) == len(p2)
    return torch.cdist(p1, p2).square().min(dim=2)


@pytest.fixture
def kaolin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with CUDA and kaolin, as far as the adapter can see."""
    library = ModuleType("kaolin.metrics.pointcloud")
    library.sided_distance = sided_distance
    monkeypatch.setattr(kaolin_backend, "missing_requirement", lambda: None)
    for name in ("kaolin", "kaolin.metrics"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "kaolin.metrics.pointcloud", library)


def test_ours_against_a_kd_tree() -> None:
    reference, sets = clouds(1, 300, 0)[0], clouds(4, 200, 1)
    forward_SP, backward_SQ = MatrixProductDistance()(reference, sets)
    for points, forward, backward in zip(sets, forward_SP, backward_SQ, strict=True):
        expected = torch.from_numpy(cKDTree(points.double()).query(reference.double())[0]).square()
        torch.testing.assert_close(forward.double(), expected, atol=5e-7, rtol=0)
        expected = torch.from_numpy(cKDTree(reference.double()).query(points.double())[0]).square()
        torch.testing.assert_close(backward.double(), expected, atol=5e-7, rtol=0)


def test_the_fastest_that_is_there_is_taken(kaolin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_nearest_distance(CPU), CpuNearestDistance)
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: object())
    assert isinstance(make_nearest_distance(CUDA), FusedNearestDistance)
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    assert isinstance(make_nearest_distance(CUDA), kaolin_backend.KaolinNearestDistance)
    monkeypatch.setattr(kaolin_backend, "missing_requirement", lambda: "the package kaolin is not installed")
    assert isinstance(make_nearest_distance(CUDA), MatrixProductDistance)


def test_the_adapter_passes_everything_on(kaolin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    references, samples = clouds(2, 120, 2), clouds(5, 90, 3)
    nearest = kaolin_backend.KaolinNearestDistance()
    expected = chamfer_matrix(references, samples)
    torch.testing.assert_close(
        chamfer_matrix(references, samples, nearest=nearest), expected, atol=1e-6, rtol=0
    )
    # Blocks of two sets give the same.
    monkeypatch.setattr(kaolin_backend.KaolinNearestDistance, "sets_at_once", lambda *counts: 2)
    torch.testing.assert_close(
        chamfer_matrix(references, samples, nearest=nearest), expected, atol=1e-6, rtol=0
    )


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="kaolin cannot be used: torch sees no CUDA device"):
        kaolin_backend.KaolinNearestDistance()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"kaolin is not installed; https://kaolin\.readthedocs"):
        kaolin_backend.KaolinNearestDistance()


def test_a_broken_install_is_an_input_error(kaolin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's way to say that a module cannot be imported.
    monkeypatch.setitem(sys.modules, "kaolin.metrics.pointcloud", None)
    with pytest.raises(InputError, match="kaolin is installed but does not load"):
        make_nearest_distance(CUDA)
