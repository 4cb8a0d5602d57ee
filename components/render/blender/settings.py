"""What of Blender decides pixels; part of a data set's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from get3d_model.errors import InputError

ENGINES = ("cycles", "eevee")


@dataclass(frozen=True)
class BlenderSettings:
    """How Blender renders.

    version: of Blender, because another one gives other pixels. engine: "cycles" (path tracing, the published
    recipe) or "eevee" (quick; needs a GPU). samples: per pixel.
    """

    version: str
    engine: str = "cycles"
    samples: int = 32

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"--engine must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        if not 1 <= self.samples <= 65536:
            raise InputError(f"--samples must be 1 to 65536, not {self.samples}")

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "backend": "blender",
            "engine": self.engine,
            "samples": self.samples,
            "blender_version": self.version,
        }
