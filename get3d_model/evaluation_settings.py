"""The section `evaluation` of a params file: how a checkpoint is measured, and what it must reach. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from get3d_model.errors import require
from get3d_model.limits import check_psi, check_seed, check_texture_resolution

DISTANCES = ("cd", "lfd")


@dataclass(frozen=True)
class Threshold:
    """One condition that a model must meet to be promoted; exactly the bounds that are given count."""

    metric: str
    """A number of metrics.json."""
    min: float | None = None
    max: float | None = None
    worse_than_production: float | None = None
    """How much worse than the model in production it may be, as a share of that one's value (0.05: 5 %); a difference
    that its interval leaves open does not count as worse."""

    def __post_init__(self) -> None:
        require(bool(self.metric), "metric must name a number of metrics.json")
        bounds = (self.min, self.max, self.worse_than_production)
        require(any(b is not None for b in bounds), f"{self.metric} needs min, max or worse_than_production")
        require(
            self.min is None or self.max is None or self.min <= self.max,
            f"{self.metric}: min ({self.min}) must not be above max ({self.max})",
        )
        require(
            self.worse_than_production is None or self.worse_than_production >= 0,
            f"{self.metric}: worse_than_production must not be negative, not {self.worse_than_production}",
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How a checkpoint is measured, and what it must reach."""

    split: str = "val"
    """The held-out split that samples are compared with."""
    samples_per_reference: int = 5
    """Generated shapes per held-out shape."""
    surface_points: int = 2048
    """Points per shape for the Chamfer distance."""
    surface: str = "all"
    """all, or outer: points only where the surface can be seen from outside, for meshes with inner structure."""
    normalize: str = "box"
    """Scale of every shape for the Chamfer distance and the JSD: box (longest side 1) or sphere (farthest vertex at 1)."""
    distances: tuple[str, ...] = DISTANCES
    """Between shapes: cd (Chamfer), lfd (light field)."""
    truncation_psi: float = 1.0
    image_samples: int = 50_000
    """Generated pictures for FID and KID, one per shape; and at most as many real ones."""
    image_resolution: int | None = None
    """Pixels of generated and real pictures; none: those of the data set, which it must not exceed."""
    texture_resolution: int = 1024
    """Texels along a side of the textures that FID-3D renders."""
    inception: str | None = None
    """The Inception-v3 weights of 2015-12-05 for FID and KID: a file, or a URL to download once; none: the cache."""
    memorization_points: int = 256
    """Points per shape in the search for the nearest training shape, at most surface_points."""
    bootstrap_resamples: int = 1000
    fid_resamples: int = 50
    """Resamples behind the intervals of FID, each of which costs an eigenvalue problem."""
    confidence: float = 0.95
    """Of the intervals."""
    min_samples: int = 10
    """Fewer generated shapes are an error."""
    min_references: int = 2
    """Fewer readable held-out meshes are an error."""
    sheet_samples: int = 16
    """Samples pictured in the report."""
    thresholds: tuple[Threshold, ...] = ()
    """Conditions for `promote`; without any, every model is promoted."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_psi(self.truncation_psi)
        check_seed(self.seed)
        for name in (
            "samples_per_reference", "surface_points", "memorization_points", "bootstrap_resamples",
            "fid_resamples", "min_samples", "min_references", "sheet_samples",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        most = 1 << 20
        require(
            self.surface_points <= most, f"surface_points must be at most {most}, not {self.surface_points}"
        )
        # Two, so that there is a spread.
        require(self.image_samples >= 2, f"image_samples must be at least 2, not {self.image_samples}")
        require(
            self.image_resolution is None or self.image_resolution >= 16,
            f"image_resolution must be at least 16, not {self.image_resolution}",
        )
        require(self.surface in ("all", "outer"), f"surface must be all or outer, not {self.surface!r}")
        require(
            self.normalize in ("box", "sphere"), f"normalize must be box or sphere, not {self.normalize!r}"
        )
        require(
            "cd" in self.distances and set(self.distances) <= set(DISTANCES),
            f"distances must be cd, or cd and lfd, not {list(self.distances)}",
        )
        check_texture_resolution(self.texture_resolution)
        require(0.5 <= self.confidence < 1, f"confidence must be 0.5 to below 1, not {self.confidence}")
