"""FID and KID by torch-fidelity beside ours: the same pictures and the same TorchScript network, other code around them.

It is an extra: torch-fidelity needs torchvision, which has no build beside torch's CPU wheels. Nothing of it is imported
unless it is asked for here.

Source: torch-fidelity's documentation, "Extensibility": `FeatureExtractorBase`, `register_feature_extractor`.

Shape legend: B batch, N M images, H W image size, D features
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from get3d_model.metrics.inception import InceptionFeatures
from get3d_model.metrics.kid import subset_counts

PROGRAM = "torch-fidelity"
_EXTRACTOR, _LAYER = "get3d-torchscript", "features"


def missing_requirement() -> str | None:
    """Why torch-fidelity cannot be used here, with the way to get it; None when it can."""
    how = f"pip install {PROGRAM}, and torchvision in the build that fits the installed torch"
    if importlib.util.find_spec("torch_fidelity") is None:
        return f"{PROGRAM} is not installed ({how})"
    try:
        _library()
    # A torchvision of another build fails with errors of every kind.
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{PROGRAM} is installed but does not load: {why} ({how})"
    return None


@dataclass(frozen=True)
class Scores:
    """kid_standard_error: what the random choice of KID's subsets leaves open; 0 where every subset is the whole."""

    fid: float
    kid: float
    kid_standard_error: float


class TorchFidelity:
    """torch-fidelity with a network of its own, made by its factory from the weight file.

    Raises InputError for a file that is no TorchScript network. Call it only where `missing_requirement` is None.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        library = _library()
        self.source = f"{PROGRAM} {library.version}"
        self._library, self._device = library, device
        self._extractor = library.create(
            _EXTRACTOR, [_LAYER], cuda=False, verbose=False, feature_extractor_weights_path=str(weights)
        ).to(device)

    def watch(self, batches: Iterable[np.ndarray], parts: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Hands on uint8 batches BHW3, and appends this network's features of each (BD float32) to `parts`."""
        for images_BHW3 in batches:
            images_B3HW = torch.from_numpy(np.ascontiguousarray(images_BHW3.transpose(0, 3, 1, 2)))
            with torch.no_grad():
                (features_BD,) = self._extractor(images_B3HW.to(self._device))
            parts.append(features_BD.cpu().numpy())
            yield images_BHW3

    def features(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """ND float32, of uint8 batches BHW3."""
        parts: list[np.ndarray] = []
        for _ in self.watch(batches, parts):
            pass
        return np.concatenate(parts)

    def scores(self, real_ND: np.ndarray, fake_MD: np.ndarray, seed: int = 0) -> Scores:
        """What `torch_fidelity.calculate_metrics` reports for these features, with our numbers of subsets."""
        real, fake = torch.from_numpy(real_ND), torch.from_numpy(fake_MD)
        statistics = [self._library.fid_statistics(features) for features in (real, fake)]
        fid = self._library.fid(*statistics, verbose=False)["frechet_inception_distance"]
        subsets, size = subset_counts(len(real_ND), len(fake_MD))
        kid = self._library.kid(
            real, fake, kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False
        )
        error = kid["kernel_inception_distance_std"] / max(1, subsets - 1) ** 0.5
        return Scores(float(fid), float(kid["kernel_inception_distance_mean"]), float(error))


@dataclass(frozen=True)
class _Library:
    """The parts of torch-fidelity that are used."""

    version: str
    create: Any
    fid_statistics: Any
    fid: Any
    kid: Any


@functools.cache
def _library() -> _Library:
    """Imports it and registers our network with it, once."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.utils import create_feature_extractor

    class TorchScriptFeatures(FeatureExtractorBase):
        """The TorchScript file as torch-fidelity wants its networks."""

        def __init__(
            self,
            name: str,
            features_list: list[str],
            feature_extractor_weights_path: str = "",
            **_: Any,
        ) -> None:
            super().__init__(name, features_list)
            self.network = InceptionFeatures(Path(feature_extractor_weights_path)).network

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (_LAYER,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return _LAYER

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, input: Tensor) -> tuple[Tensor]:
            """uint8 RGB, B3HW."""
            return (self.network(input, return_features=True).float(),)

    torch_fidelity.register_feature_extractor(_EXTRACTOR, TorchScriptFeatures)
    return _Library(
        torch_fidelity.__version__,
        create_feature_extractor,
        fid_features_to_statistics,
        fid_statistics_to_metric,
        kid_features_to_metric,
    )
