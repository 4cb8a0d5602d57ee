"""What `get3d metrics` is asked to measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from get3d_model.errors import InputError

Distance = Literal["cd", "lfd"]
# A nearest neighbour needs two of each.
LEAST = 2


@dataclass(frozen=True)
class MetricsSettings:
    """distances: which distances. points: surface points per shape, of the Chamfer distance and the JSD.
    normalize, surface: see get3d_model/metrics/points.py. minimum: fewer usable meshes in a folder are an error.
    resamples, confidence: of the bootstrap intervals. quality: whether the quality of the meshes is measured."""

    distances: tuple[Distance, ...] = ("cd", "lfd")
    points: int = 2048
    seed: int = 0
    surface: str = "all"
    normalize: str = "box"
    minimum: int = LEAST
    resamples: int = 1000
    confidence: float = 0.95
    quality: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("points", 1, 1 << 20), ("seed", 0, 2**63 - 1), ("minimum", LEAST, 1 << 31), ("resamples", 1, 1 << 31),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"--{name} {value} is out of range; use {low} to {high}")
        if not 0.0 < self.confidence < 1.0:
            raise InputError(f"--confidence {self.confidence} is out of range; use a number between 0 and 1")

    def point_key(self) -> dict[str, Any]:
        """What surface points depend on."""
        return {name: asdict(self)[name] for name in ("points", "seed", "surface", "normalize")}
