"""torch-fidelity's FID and KID against ours, with one network and the same pictures; what is said where it is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.metrics import second_opinion
from get3d_model.metrics.fid import frechet_inception_distance
from get3d_model.metrics.inception import InceptionFeatures, extract
from get3d_model.metrics.kid import kernel_inception_distance
from get3d_model.metrics.second_opinion import TorchFidelity, missing_requirement
from tests.get3d_model.metrics.fake_inception import write_fake_inception

CPU = torch.device("cpu")
WHY = missing_requirement()
needs_torch_fidelity = pytest.mark.skipif(WHY is not None, reason=f"NOT RUN: {WHY}")


def pictures(count: int, seed: int, mean: float) -> np.ndarray:
    """Noise over soft shades, N 24 24 3 uint8."""
    rng = np.random.default_rng(seed)
    shades = rng.normal(mean, 40, (count, 3, 3, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(shades + rng.normal(0, 15, (count, 24, 24, 3)), 0, 255).astype(np.uint8)


def batches(images_NHW3: np.ndarray, size: int) -> list[np.ndarray]:
    return [images_NHW3[first : first + size] for first in range(0, len(images_NHW3), size)]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_fake_inception(tmp_path / "network.pt")
    return tmp_path / "network.pt"


@needs_torch_fidelity
@pytest.mark.parametrize(("real_count", "fake_count"), [(150, 150), (90, 60)])
def test_it_agrees_with_ours(weights: Path, real_count: int, fake_count: int) -> None:
    """Equal counts: one subset, which is the whole, so KID has no chance in it."""
    real, fake = pictures(real_count, 0, 110), pictures(fake_count, 1, 130)
    network, other = InceptionFeatures(weights), TorchFidelity(weights, CPU)
    seen: list[np.ndarray] = []
    ours = extract(network, batches(real, 16)), extract(network, other.watch(batches(fake, 16), seen))
    theirs = other.features(batches(real, 50)), np.concatenate(seen)
    scores = other.scores(*theirs, seed=3)
    fid = frechet_inception_distance(*ours, CPU)
    kid = kernel_inception_distance(*ours, CPU)
    print(
        f"FID {fid:.9f} {scores.fid:.9f}, KID {kid:.9f} {scores.kid:.9f} +- {scores.kid_standard_error:.1e}"
    )
    assert fid > 1e-2 and scores.fid == pytest.approx(fid, rel=1e-3)
    if real_count == fake_count:
        assert scores.kid == pytest.approx(kid, rel=1e-3) and scores.kid_standard_error == 0.0
    else:
        assert 0.0 < scores.kid_standard_error < 0.1 * kid
        assert abs(scores.kid - kid) < 6 * scores.kid_standard_error


@needs_torch_fidelity
def test_it_is_what_their_whole_program_reports(weights: Path) -> None:
    import torch_fidelity

    class Images(torch.utils.data.Dataset):
        def __init__(self, images_NHW3: np.ndarray) -> None:
            self.images = torch.from_numpy(images_NHW3).permute(0, 3, 1, 2)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.images[index]

    real, fake = pictures(80, 0, 110), pictures(50, 1, 130)
    other = TorchFidelity(weights, CPU)
    scores = other.scores(other.features([real]), other.features([fake]), seed=5)
    whole = torch_fidelity.calculate_metrics(
        input1=Images(real), input2=Images(fake), cuda=False, fid=True, kid=True, verbose=False, save_cpu_ram=True,
        feature_extractor="get3d-torchscript", feature_extractor_weights_path=str(weights),
        kid_subset_size=50, kid_subsets=100, rng_seed=5, cache=False,
    )  # fmt: skip
    assert scores.fid == pytest.approx(whole["frechet_inception_distance"], rel=1e-5)
    assert scores.kid == pytest.approx(whole["kernel_inception_distance_mean"], rel=1e-4)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Absent; and installed beside a torchvision that does not load, as beside torch's CPU wheels."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "torch_fidelity" else find_spec(name, *a),
    )
    assert "torch-fidelity is not installed (pip install torch-fidelity, and torchvision" in str(
        missing_requirement()
    )
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    (tmp_path / "torch_fidelity").mkdir()
    (tmp_path / "torch_fidelity" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    # The cache of the module stays as it is: it may hold the real one.
    uncached = second_opinion._library.__wrapped__
    monkeypatch.setattr(second_opinion, "_library", uncached)
    assert "does not load: operator torchvision::nms does not exist (pip" in str(missing_requirement())
