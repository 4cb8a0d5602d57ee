"""kaolin's nearest-point distances on CUDA: the only module that imports kaolin, and only when used.

Source: the kaolin documentation, kaolin.metrics.pointcloud.sided_distance.

Shape legend: S point sets, P reference points, Q points of a set
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from get3d_model.errors import InputError

INSTALL_HINT = (
    "https://kaolin.readthedocs.io/en/latest/notes/installation.html (for the installed torch and CUDA)"
)


def missing_requirement() -> str | None:
    """Why kaolin cannot be used on this machine, with the fix; None when it can be tried."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if importlib.util.find_spec("kaolin") is None:
        return f"the package kaolin is not installed; {INSTALL_HINT}"
    return None


@dataclass(frozen=True)
class KaolinNearestDistance:
    """The `NearestDistance` of metrics/nearest.py by kaolin's CUDA kernel, which keeps no distance matrix.

    Raises InputError, with the fix, when kaolin or CUDA is missing or kaolin does not load.
    """

    _library: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problem = missing_requirement()
        if problem is not None:
            raise InputError(f"kaolin cannot be used: {problem}")
        try:
            library = importlib.import_module("kaolin.metrics.pointcloud")
        except (
            ImportError,
            OSError,
            RuntimeError,
        ) as error:  # a build for another torch, or a missing package
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"kaolin is installed but does not load ({why}); uninstall it, or install again: {INSTALL_HINT}"
            ) from error
        object.__setattr__(self, "_library", library)

    def sets_at_once(self, points: int, others: int) -> int:
        """See `NearestDistance.sets_at_once`: copies of the points are all the memory there is."""
        return max(1, (1 << 22) // max(1, points + others))

    def __call__(self, reference_P3: Tensor, points_SQ3: Tensor) -> tuple[Tensor, Tensor]:
        """See `NearestDistance.__call__`."""
        reference_SP3 = reference_P3.expand(len(points_SQ3), -1, -1).contiguous()
        points_SQ3 = points_SQ3.contiguous()
        distance_SP, _ = self._library.sided_distance(reference_SP3, points_SQ3)
        distance_SQ, _ = self._library.sided_distance(points_SQ3, reference_SP3)
        return distance_SP, distance_SQ
