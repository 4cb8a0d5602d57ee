"""Coverage and minimum matching distance from a matrix of distances.

Source: Achlioptas et al. 2018, "Learning Representations and Generative Models for 3D Point Clouds", section 4;
conventions of GET3D's evaluation.

Shape legend: R references, S samples
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CoverageScore:
    """cov: share of references that are the nearest reference of at least one sample.
    mmd: mean over references of the distance to their nearest sample."""

    cov: float
    mmd: float


def coverage_score(distance_RS: Tensor) -> CoverageScore:
    """Scores a set of samples against references. Raises ValueError when either is empty."""
    references, samples = distance_RS.shape
    if not references or not samples:
        raise ValueError(f"coverage needs references and samples, got {references} and {samples}")
    nearest_reference_S = distance_RS.argmin(dim=0)
    return CoverageScore(
        cov=len(nearest_reference_S.unique()) / references,
        mmd=float(distance_RS.amin(dim=1).mean()),
    )
