"""Orbit cameras: construction, distributions, projection.

World: y up. A camera sits on a sphere around the origin and looks at it. Angles follow the published
data sets: rotation theta in [0, 2 pi), and the polar angle phi measured from +y (called `elevation`
there; 90 degrees is the horizon). Source: GET3D (Gao et al. 2022), section 4 and appendix.

Shape legend: B cameras, N cameras of a data set
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from get3d_model.camera_settings import FIELD_OF_VIEW_RAD, ORBIT_RADIUS, CameraConfig, OrbitSettings
from get3d_model.types import Camera

__all__ = [
    "FIELD_OF_VIEW_RAD",
    "ORBIT_RADIUS",
    "CameraDistribution",
    "EmpiricalOrbit",
    "NormalElevationOrbit",
    "UniformOrbit",
    "camera_distribution",
    "orbit_camera",
    "orbit_positions",
    "perspective_projection",
    "preview_cameras",
    "to_clip_space",
    "turntable",
]

NEAR, FAR = 0.1, 1000.0


def perspective_projection(
    field_of_view_rad: float = FIELD_OF_VIEW_RAD, near: float = NEAR, far: float = FAR
) -> Tensor:
    """Camera to clip space (OpenGL depth range), y flipped so that image row 0 is the top. Returns 44."""
    focal = 1.0 / math.tan(field_of_view_rad / 2.0)
    return torch.tensor(
        [
            [focal, 0.0, 0.0, 0.0],
            [0.0, -focal, 0.0, 0.0],
            [0.0, 0.0, -(far + near) / (far - near), -2.0 * far * near / (far - near)],
            [0.0, 0.0, -1.0, 0.0],
        ],
        dtype=torch.float32,
    )


def orbit_positions(rotation_rad_B: Tensor, elevation_rad_B: Tensor, radius: float) -> Tensor:
    """Camera centres, B3, in world units."""
    theta_B = -rotation_rad_B - math.pi / 2.0
    sin_phi_B = torch.sin(elevation_rad_B)
    return radius * torch.stack(
        [sin_phi_B * torch.cos(theta_B), torch.cos(elevation_rad_B), sin_phi_B * torch.sin(theta_B)], dim=-1
    )


def orbit_camera(
    rotation_rad_B: Tensor,
    elevation_rad_B: Tensor,
    radius: float = ORBIT_RADIUS,
    field_of_view_rad: float = FIELD_OF_VIEW_RAD,
) -> Camera:
    """Cameras at the given angles (radians), looking at the origin. Undefined exactly at the poles."""
    origin_B3 = orbit_positions(rotation_rad_B.double(), elevation_rad_B.double(), radius)
    backward_B3 = torch.nn.functional.normalize(origin_B3, dim=-1)
    up_B3 = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64, device=origin_B3.device).expand_as(origin_B3)
    right_B3 = torch.nn.functional.normalize(torch.linalg.cross(up_B3, backward_B3), dim=-1)
    true_up_B3 = torch.linalg.cross(backward_B3, right_B3)
    rotation_B33 = torch.stack([right_B3, true_up_B3, backward_B3], dim=1)
    world2cam_B44 = torch.zeros(len(origin_B3), 4, 4, dtype=torch.float64, device=origin_B3.device)
    world2cam_B44[:, :3, :3] = rotation_B33
    world2cam_B44[:, :3, 3] = -(rotation_B33 @ origin_B3[..., None]).squeeze(-1)
    world2cam_B44[:, 3, 3] = 1.0
    return Camera(
        rotation_rad_B.float(),
        elevation_rad_B.float(),
        world2cam_B44.float(),
        perspective_projection(field_of_view_rad).to(origin_B3.device),
    )


def to_clip_space(points_V3: Tensor, world2clip_44: Tensor) -> Tensor:
    """Homogeneous clip-space positions, V4, of world points seen by one camera."""
    return points_V3 @ world2clip_44[:, :3].T + world2clip_44[:, 3]


class CameraDistribution(Protocol):
    """Draws training cameras; chosen once, where the configuration is read."""

    def sample(self, count: int, generator: torch.Generator) -> Camera:
        """`count` cameras, on the generator's device."""
        ...


@dataclass(frozen=True)
class UniformOrbit:
    """Rotation and polar angle uniform in the given ranges (radians), as for the ShapeNet categories."""

    rotation_range_rad: tuple[float, float] = (0.0, 2.0 * math.pi)
    elevation_range_rad: tuple[float, float] = (math.pi / 3.0, math.pi / 2.0)
    radius: float = ORBIT_RADIUS
    field_of_view_rad: float = FIELD_OF_VIEW_RAD

    def sample(self, count: int, generator: torch.Generator) -> Camera:
        unit_2B = torch.rand(2, count, generator=generator, device=generator.device)
        (low_r, high_r), (low_e, high_e) = self.rotation_range_rad, self.elevation_range_rad
        return orbit_camera(
            low_r + (high_r - low_r) * unit_2B[0],
            low_e + (high_e - low_e) * unit_2B[1],
            self.radius,
            self.field_of_view_rad,
        )


@dataclass(frozen=True)
class NormalElevationOrbit:
    """Rotation uniform; the polar angle normal (mean and standard deviation in radians), cut off at its range."""

    mean_rad: float
    std_rad: float
    elevation_range_rad: tuple[float, float]
    rotation_range_rad: tuple[float, float] = (0.0, 2.0 * math.pi)
    radius: float = ORBIT_RADIUS
    field_of_view_rad: float = FIELD_OF_VIEW_RAD

    def sample(self, count: int, generator: torch.Generator) -> Camera:
        unit_2B = torch.rand(2, count, generator=generator, device=generator.device).double()
        (low_r, high_r), (low_e, high_e) = self.rotation_range_rad, self.elevation_range_rad
        # By the inverse of the distribution: always two draws, however much of the normal is cut off.
        first, last = (
            0.5 * (1.0 + math.erf((edge - self.mean_rad) / (self.std_rad * math.sqrt(2.0))))
            for edge in (low_e, high_e)
        )
        normal_B = torch.special.ndtri((first + (last - first) * unit_2B[1]).clamp(1e-12, 1 - 1e-12))
        return orbit_camera(
            low_r + (high_r - low_r) * unit_2B[0],
            (self.mean_rad + self.std_rad * normal_B).clamp(low_e, high_e),
            self.radius,
            self.field_of_view_rad,
        )


@dataclass(frozen=True)
class EmpiricalOrbit:
    """Directions drawn, with replacement, from those of a data set: rotation and polar angle stay together.

    angles_N2: (rotation, polar angle) in radians, on the device of the generators that will be given.
    """

    angles_N2: Tensor
    radius: float = ORBIT_RADIUS
    field_of_view_rad: float = FIELD_OF_VIEW_RAD

    def __post_init__(self) -> None:
        if self.angles_N2.ndim != 2 or self.angles_N2.shape[1] != 2 or not len(self.angles_N2):
            raise ValueError(f"expected angles of shape (N, 2), N >= 1; got {tuple(self.angles_N2.shape)}")

    def sample(self, count: int, generator: torch.Generator) -> Camera:
        index_B = torch.randint(len(self.angles_N2), (count,), generator=generator, device=generator.device)
        angles_B2 = self.angles_N2[index_B]
        return orbit_camera(angles_B2[:, 0], angles_B2[:, 1], self.radius, self.field_of_view_rad)


def camera_distribution(config: CameraConfig, dataset_angles_N2: Tensor) -> CameraDistribution:
    """The distribution of a configuration.

    dataset_angles_N2: (rotation, polar angle) in radians of the training images; used by `distribution: dataset`.
    """
    orbit = config.orbit
    radius, field_of_view_rad = orbit.radius, math.radians(orbit.field_of_view_deg)
    if config.distribution == "dataset":
        return EmpiricalOrbit(dataset_angles_N2, radius, field_of_view_rad)
    low_r, high_r = (math.radians(angle) for angle in orbit.rotation_deg)
    low_e, high_e = (math.radians(90.0 - angle) for angle in reversed(orbit.elevation_deg))
    if orbit.elevation_distribution == "normal":
        return NormalElevationOrbit(
            math.radians(90.0 - orbit.elevation_mean_deg),
            math.radians(orbit.elevation_std_deg),
            (low_e, high_e),
            (low_r, high_r),
            radius,
            field_of_view_rad,
        )
    return UniformOrbit((low_r, high_r), (low_e, high_e), radius, field_of_view_rad)


def preview_cameras(orbit: OrbitSettings, count: int, start_rad: float = 0.0) -> Camera:
    """A turntable at the settings' distance and lens, from an elevation that 60 % of their cameras are below."""
    elevation_rad = math.radians(90.0 - orbit.elevation_at(0.6))
    return turntable(count, elevation_rad, start_rad, orbit.radius, math.radians(orbit.field_of_view_deg))


def turntable(
    count: int,
    elevation_rad: float = math.radians(72.0),
    start_rad: float = 0.0,
    radius: float = ORBIT_RADIUS,
    field_of_view_rad: float = FIELD_OF_VIEW_RAD,
) -> Camera:
    """`count` cameras evenly around the object at one polar angle (radians)."""
    rotation_B = start_rad + torch.arange(count) * (2.0 * math.pi / count)
    return orbit_camera(rotation_B, torch.full((count,), elevation_rad), radius, field_of_view_rad)
