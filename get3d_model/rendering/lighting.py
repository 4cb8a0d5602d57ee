"""What lights a mesh in pictures: distant lights, one large area light, or the picture of an environment.

All of them are light from far away without shadows and without gloss: the light that arrives at a point depends on
its normal alone (irradiance), so a point of the surface has one colour in all views, which is what a texture can
represent. Outgoing light = base colour * irradiance / pi, in linear light; here "light" means irradiance / pi, and 1
is the light under which a white surface is just white.

Shape legend: R side of an irradiance map, D directions, N normals, H W equirect picture
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np

# An irradiance map varies slowly: bilinear lookups in one of this size are right to 1e-3.
MAP_SIZE = 65
# The large light of the published recipe as our Blender scene has it: half the diameter over the height.
AREA_HALF_ANGLE_RAD = math.atan2(5.0, 2.0)


class LightSource(Protocol):
    """What a renderer asks of lighting."""

    def as_array(self) -> np.ndarray:
        """(sky, ground, key, unit key direction, fill, unit fill direction), 10 float64; for lights without a map."""
        ...

    def irradiance_map(self) -> np.ndarray | None:
        """RR3 float32, light by normal in the octahedral layout of `octahedral_normals`; None: use `as_array`."""
        ...

    def describe(self) -> dict[str, Any]:
        """For a manifest: equal when the pictures are."""
        ...


@dataclass(frozen=True)
class Lighting:
    """A sky, a key and a fill light, all white; 1 is the light under which a white surface is just white.

    sky, ground: ambient light on surfaces facing up and down; those between get a mixture by their slope.
    key, fill: Lambert light on surfaces facing the light. Directions point towards the lights, in world axes
    (y up), of any length. The default sums to at most 1 in every direction, so no colour is cut off.
    """

    sky: float = 0.46
    ground: float = 0.30
    key: float = 0.56
    key_direction: tuple[float, float, float] = (0.55, 0.75, 0.65)
    fill: float = 0.22
    fill_direction: tuple[float, float, float] = (-0.75, 0.25, -0.55)

    def __post_init__(self) -> None:
        for name in ("sky", "ground", "key", "fill"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Lighting.{name} must be a number from 0 on; got {value}")
        for name in ("key_direction", "fill_direction"):
            length = math.hypot(*getattr(self, name))
            if not (math.isfinite(length) and length > 0):
                raise ValueError(f"Lighting.{name} must not be zero; got {getattr(self, name)}")

    @classmethod
    def unlit(cls) -> Lighting:
        """Texture colours as they are: light 1 from everywhere."""
        return cls(sky=1.0, ground=1.0, key=0.0, fill=0.0)

    def as_array(self) -> np.ndarray:
        """See `LightSource`."""
        key_3 = np.array(self.key_direction) / math.hypot(*self.key_direction)
        fill_3 = np.array(self.fill_direction) / math.hypot(*self.fill_direction)
        return np.array([self.sky, self.ground, self.key, *key_3, self.fill, *fill_3], np.float64)

    def irradiance_map(self) -> None:
        """See `LightSource`."""
        return None

    def describe(self) -> dict[str, Any]:
        """As JSON has it, so that it compares equal to what was read from a manifest."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class AreaLight:
    """One large round light of even radiance, and as much of `ambient` from everywhere.

    direction: towards its centre (world axes, y up). half_angle_rad: as seen from the object; the default is the
    light of the published recipe, a disk 10 wide 2 above the object. From the origin a disk that faces it is exactly
    a cone of directions; that all points of the object see it so is the approximation, as is the lack of shadows.
    ambient: stands for the light that a floor and the object itself throw back, without which undersides are black.
    A surface that faces the light gets 1.
    """

    direction: tuple[float, float, float] = (0.0, 1.0, 0.0)
    half_angle_rad: float = AREA_HALF_ANGLE_RAD
    ambient: float = 0.12

    def __post_init__(self) -> None:
        length = math.hypot(*self.direction)
        if not (math.isfinite(length) and length > 0):
            raise ValueError(f"AreaLight.direction must not be zero; got {self.direction}")
        if not 0.0 < self.half_angle_rad <= math.pi:
            raise ValueError(f"AreaLight.half_angle_rad must be in (0, pi]; got {self.half_angle_rad}")
        if not 0.0 <= self.ambient <= 1.0:
            raise ValueError(f"AreaLight.ambient must be 0 to 1; got {self.ambient}")

    def as_array(self) -> np.ndarray:
        """See `LightSource`."""
        return np.zeros(10)

    def irradiance_map(self) -> np.ndarray:
        """See `LightSource`."""
        axis_3 = np.array(self.direction) / math.hypot(*self.direction)
        cosine_RR = octahedral_normals(MAP_SIZE) @ axis_3
        light_RR = cap_light(np.arccos(cosine_RR.clip(-1.0, 1.0)), self.half_angle_rad)
        light_RR = self.ambient + (1.0 - self.ambient) * light_RR / cap_light(
            np.zeros(1), self.half_angle_rad
        )
        return np.repeat(light_RR[..., None], 3, axis=2).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """See `LightSource`."""
        return {
            "kind": "area",
            "direction": list(self.direction),
            "half_angle_rad": self.half_angle_rad,
            "ambient": self.ambient,
        }


@dataclass(frozen=True)
class EnvironmentLight:
    """Light from a picture of all directions.

    name: of the preset or file. sha256: of the file's bytes, empty for a preset. radiance_HW3: float32, linear, equirect:
    row 0 is straight up (+y), the middle column is +z, columns go from -z over -x, +z and +x back to -z. Its scale does
    not matter: the best-lit normal gets 1 in its brightest channel, so no colour is cut off.
    """

    name: str
    sha256: str
    radiance_HW3: np.ndarray = field(compare=False, repr=False)

    def as_array(self) -> np.ndarray:
        """See `LightSource`."""
        return np.zeros(10)

    def irradiance_map(self) -> np.ndarray:
        """See `LightSource`."""
        return self._map_RR3

    @cached_property
    def _map_RR3(self) -> np.ndarray:
        normals_N3 = octahedral_normals(MAP_SIZE).reshape(-1, 3)
        light_N3 = environment_light(self.radiance_HW3, normals_N3)
        light_N3 /= max(float(light_N3.max()), 1e-12)
        return light_N3.reshape(MAP_SIZE, MAP_SIZE, 3).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """See `LightSource`."""
        return {"kind": "environment", "name": self.name, "sha256": self.sha256}


@cache
def octahedral_normals(size: int) -> np.ndarray:
    """Unit normals at the nodes of an octahedral map, RR3; the nodes of the border lie on the folds.

    Node (row, column) has (x, z) = 2 (column, row) / (size - 1) - 1 before it is folded onto the octahedron
    |x| + |y| + |z| = 1, whose upper half (y > 0) is the middle. Source: Cigolle et al. 2014, "Survey of Efficient
    Representations for Independent Unit Vectors".
    """
    axis_R = np.linspace(-1.0, 1.0, size)
    z_RR, x_RR = np.meshgrid(axis_R, axis_R, indexing="ij")
    y_RR = 1.0 - np.abs(x_RR) - np.abs(z_RR)
    below = y_RR < 0
    folded_x = np.where(below, (1.0 - np.abs(z_RR)) * np.where(x_RR >= 0, 1.0, -1.0), x_RR)
    folded_z = np.where(below, (1.0 - np.abs(x_RR)) * np.where(z_RR >= 0, 1.0, -1.0), z_RR)
    normals_RR3 = np.stack([folded_x, y_RR, folded_z], axis=-1)
    return normals_RR3 / np.linalg.norm(normals_RR3, axis=-1, keepdims=True)


def cap_light(angle_N: np.ndarray, half_angle_rad: float, steps: int = 512) -> np.ndarray:
    """Light from a cone of even radiance 1 on normals at these angles (radians) from its axis.

    (1 / pi) times the integral of max(0, n . w) over the cone. Around the axis the integral is closed: for a ring at angle b
    from it, n . w = A + B cos(phi), A = cos(a) cos(b), B = sin(a) sin(b); along b by the midpoint rule.
    """
    ring_1K = ((np.arange(steps) + 0.5) * (half_angle_rad / steps))[None, :]
    angle_N1 = np.asarray(angle_N, np.float64).reshape(-1, 1)
    constant_NK = np.cos(angle_N1) * np.cos(ring_1K)
    swing_NK = np.sin(angle_N1) * np.sin(ring_1K)
    # The half range of phi over which the ring is above the horizon of the normal.
    edge_NK = np.arccos(np.clip(-constant_NK / np.maximum(swing_NK, 1e-12), -1.0, 1.0))
    around_NK = 2.0 * (constant_NK * edge_NK + swing_NK * np.sin(edge_NK))
    light_N = (around_NK * np.sin(ring_1K)).sum(axis=1) * (half_angle_rad / steps) / math.pi
    return light_N.reshape(np.shape(angle_N))


def equirect_directions(height: int, width: int) -> np.ndarray:
    """Unit directions of the pixel centres of an equirect picture, HW3; see `EnvironmentLight`."""
    polar_H1 = ((np.arange(height) + 0.5) * (math.pi / height))[:, None]
    turn_1W = ((np.arange(width) + 0.5) / width - 0.5)[None, :] * (2.0 * math.pi)
    return np.stack(
        np.broadcast_arrays(
            np.sin(polar_H1) * np.sin(turn_1W), np.cos(polar_H1), np.sin(polar_H1) * np.cos(turn_1W)
        ),
        axis=-1,
    )


def environment_light(radiance_HW3: np.ndarray, normals_N3: np.ndarray) -> np.ndarray:
    """(1 / pi) times the integral of radiance * max(0, n . w) over all directions, N3 float64."""
    height, width, _ = radiance_HW3.shape
    directions_D3 = equirect_directions(height, width).reshape(-1, 3)
    sine_H = np.sin((np.arange(height) + 0.5) * (math.pi / height))
    solid_D = np.repeat(sine_H * (math.pi / height) * (2.0 * math.pi / width), width)
    weighted_D3 = radiance_HW3.reshape(-1, 3).astype(np.float64) * solid_D[:, None] / math.pi
    light_N3 = np.empty((len(normals_N3), 3))
    for first in range(0, len(normals_N3), 512):
        rows = slice(first, first + 512)
        light_N3[rows] = np.maximum(normals_N3[rows] @ directions_D3.T, 0.0) @ weighted_D3
    return light_N3
