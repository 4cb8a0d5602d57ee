"""Where cameras stand, as numbers in degrees: for the render step, for training and for pictures. No torch here.

Source: the ShapeNet categories, GET3D (Gao et al. 2022), section 4 and appendix. The paper trains on houses, animals
(TurboSquid) and people (RenderPeople) too, but the facts this project is written from give no camera figures for
them: those presets are choices of ours, with their reasons beside them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType

from get3d_model.errors import InputError, require

# The Blender recipe of the published data: a 35 mm lens on a 32 mm sensor, so half the sensor is 16 mm.
FIELD_OF_VIEW_RAD = 2.0 * math.atan(16.0 / 35.0)
ORBIT_RADIUS = 1.2
ELEVATION_DISTRIBUTIONS = ("uniform", "normal")
DISTRIBUTIONS = ("orbit", "dataset")


@dataclass(frozen=True)
class OrbitSettings:
    """Cameras on a sphere around the origin, looking at it. Degrees; elevation is measured up from the horizon.

    rotation_deg, elevation_deg: (low, high) of the two angles. Rotation is uniform.
    elevation_distribution: "uniform", or "normal": a normal distribution cut off at the range.
    elevation_mean_deg, elevation_std_deg: of that normal distribution before the cut.
    radius: distance from the origin, world units. field_of_view_deg: full angle, the same in height and width.
    """

    rotation_deg: tuple[float, float] = (0.0, 360.0)
    elevation_deg: tuple[float, float] = (0.0, 30.0)
    elevation_distribution: str = "uniform"
    elevation_mean_deg: float = 15.0
    elevation_std_deg: float = 10.0
    radius: float = ORBIT_RADIUS
    field_of_view_deg: float = math.degrees(FIELD_OF_VIEW_RAD)

    def __post_init__(self) -> None:
        low, high = self.rotation_deg
        require(
            low <= high <= low + 360.0 and low >= 0.0 and high <= 360.0,
            f"rotation_deg must be low to high within 0 to 360, not {list(self.rotation_deg)}",
        )
        low, high = self.elevation_deg
        # At the poles "up" is undefined.
        require(
            -89.0 <= low <= high <= 89.0,
            f"elevation_deg must be low to high within -89 to 89, not {list(self.elevation_deg)}",
        )
        require(
            self.elevation_distribution in ELEVATION_DISTRIBUTIONS,
            f"elevation_distribution must be one of {', '.join(ELEVATION_DISTRIBUTIONS)}, "
            f"not {self.elevation_distribution!r}",
        )
        if self.elevation_distribution == "normal":
            require(
                self.elevation_std_deg > 0,
                f"elevation_std_deg must be positive, not {self.elevation_std_deg}",
            )
            require(
                low <= self.elevation_mean_deg <= high and low < high,
                f"elevation_mean_deg must be inside elevation_deg {list(self.elevation_deg)}, "
                f"not {self.elevation_mean_deg}",
            )
        require(0.5 <= self.radius <= 100.0, f"radius must be 0.5 to 100, not {self.radius}")
        require(
            1.0 <= self.field_of_view_deg <= 120.0,
            f"field_of_view_deg must be 1 to 120, not {self.field_of_view_deg}",
        )

    def elevation_at(self, share: float) -> float:
        """The elevation, in degrees, below which `share` (0 to 1) of the cameras are: the inverse distribution."""
        low, high = self.elevation_deg
        if self.elevation_distribution == "uniform":
            return low + (high - low) * share
        normal = NormalDist(self.elevation_mean_deg, self.elevation_std_deg)
        first, last = normal.cdf(low), normal.cdf(high)
        return min(max(normal.inv_cdf(min(max(first + (last - first) * share, 1e-12), 1 - 1e-12)), low), high)


PUBLISHED_ORBIT = OrbitSettings()

CAMERA_PRESETS: Mapping[str, OrbitSettings] = MappingProxyType(
    {
        "car": PUBLISHED_ORBIT,
        "chair": PUBLISHED_ORBIT,
        "motorbike": PUBLISHED_ORBIT,
        # Ours. A house fills its box in all three directions; with the longest side 0.8 a corner of a cube is 0.69
        # from the centre, which the published camera (all within 0.5) would cut off. From a distance of 2 a lens of
        # 41 degrees holds it (asin(0.69 / 2) = 20.2). Higher up than cars, so that roofs are seen from all sides.
        "house": OrbitSettings(elevation_deg=(5.0, 45.0), radius=2.0, field_of_view_deg=41.0),
        # Ours. The published distance and lens; a little below the horizon too, because bellies and legs of an
        # animal are otherwise never seen.
        "animal": OrbitSettings(elevation_deg=(-10.0, 30.0)),
        # Ours. People are looked at from about their own height. Someone 0.8 tall seen from 2 away spans 25 degrees:
        # a lens of 28 fills the picture with less perspective than the published one.
        "person": OrbitSettings(elevation_deg=(0.0, 20.0), radius=2.0, field_of_view_deg=28.0),
    }
)


@dataclass(frozen=True)
class CameraConfig:
    """The cameras of the data set and of training: a preset, and what to change of it."""

    preset: str = "car"
    """car, chair and motorbike (the published ones, all alike), house, animal or person (ours)."""
    distribution: str = "orbit"
    """What generated shapes are seen by. orbit: the preset with the changes below. dataset: directions drawn from
    those of the training images, for a data set whose cameras follow no simple rule."""
    rotation_deg: tuple[float, float] | None = None
    """Lowest and highest rotation around the vertical axis; uniform."""
    elevation_deg: tuple[float, float] | None = None
    """Lowest and highest elevation above the horizon."""
    elevation_distribution: str | None = None
    """uniform, or normal: cut off at elevation_deg."""
    elevation_mean_deg: float | None = None
    elevation_std_deg: float | None = None
    radius: float | None = None
    """Distance of the camera from the origin; the longest side of a mesh is render.scale."""
    field_of_view_deg: float | None = None
    """Full angle of the square picture; 49.13 is the published lens."""

    def __post_init__(self) -> None:
        if self.preset not in CAMERA_PRESETS:
            near = difflib.get_close_matches(self.preset, CAMERA_PRESETS, n=1, cutoff=0.0)[0]
            raise InputError(
                f"preset must be one of {', '.join(CAMERA_PRESETS)}, not {self.preset!r}; did you mean {near}?"
            )
        require(
            self.distribution in DISTRIBUTIONS,
            f"distribution must be one of {', '.join(DISTRIBUTIONS)}, not {self.distribution!r}",
        )
        _ = self.orbit

    @property
    def orbit(self) -> OrbitSettings:
        """The preset with the changes."""
        names = [item.name for item in dataclasses.fields(OrbitSettings)]
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(CAMERA_PRESETS[self.preset], **changes)
