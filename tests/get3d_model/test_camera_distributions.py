"""Camera distributions: ranges, moments against SciPy, the data set's own cameras, presets and their settings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from get3d_model.camera_settings import CAMERA_PRESETS, CameraConfig, OrbitSettings
from get3d_model.cameras import (
    EmpiricalOrbit,
    UniformOrbit,
    camera_distribution,
    preview_cameras,
    to_clip_space,
)
from get3d_model.config import config_from_dict
from get3d_model.errors import InputError

COUNT = 20_000
NO_ANGLES = torch.empty(0, 2)


def angles_deg(config: CameraConfig, dataset: torch.Tensor = NO_ANGLES) -> tuple[np.ndarray, np.ndarray]:
    """(rotation, elevation above the horizon) in degrees of many cameras."""
    camera = camera_distribution(config, dataset).sample(COUNT, torch.Generator().manual_seed(5))
    rotation, polar = torch.rad2deg(camera.angles_B2.double()).numpy().T
    return rotation, 90.0 - polar


def test_the_default_is_the_published_distribution() -> None:
    assert camera_distribution(CameraConfig(), NO_ANGLES) == UniformOrbit()
    draws = [
        d.sample(50, torch.Generator().manual_seed(2))
        for d in (UniformOrbit(), camera_distribution(CameraConfig(), NO_ANGLES))
    ]
    assert torch.equal(draws[0].angles_B2, draws[1].angles_B2)
    assert torch.equal(draws[0].world2clip_B44, draws[1].world2clip_B44)


@pytest.mark.parametrize("preset", CAMERA_PRESETS)
def test_presets_are_uniform_in_their_ranges(preset: str) -> None:
    orbit = CAMERA_PRESETS[preset]
    for values, (low, high) in zip(
        angles_deg(CameraConfig(preset)), (orbit.rotation_deg, orbit.elevation_deg), strict=True
    ):
        assert low - 1e-4 <= values.min() and values.max() <= high + 1e-4
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_normal_elevations_are_the_truncated_normal() -> None:
    config = CameraConfig(
        elevation_deg=(-5.0, 40.0),
        elevation_distribution="normal",
        elevation_mean_deg=10.0,
        elevation_std_deg=12.0,
        rotation_deg=(90.0, 270.0),
    )
    rotation, elevation = angles_deg(config)
    expected = stats.truncnorm((-5 - 10) / 12, (40 - 10) / 12, loc=10, scale=12)
    assert elevation.min() >= -5 - 1e-4 and elevation.max() <= 40 + 1e-4
    assert elevation.mean() == pytest.approx(expected.mean(), abs=0.2)
    assert elevation.std() == pytest.approx(expected.std(), abs=0.2)
    assert stats.kstest(elevation, expected.cdf).pvalue > 1e-3
    assert rotation.min() >= 90 - 1e-4 and rotation.max() <= 270 + 1e-4
    # The render step draws by the same distribution, from hashes instead of torch.
    shares = (np.arange(400) + 0.5) / 400
    ours = [config.orbit.elevation_at(float(share)) for share in shares]
    np.testing.assert_allclose(ours, expected.ppf(shares), atol=1e-9)


def test_cameras_of_the_data_set() -> None:
    """Only its directions, each as often as the others, rotation and elevation never torn apart."""
    angles_N2 = torch.tensor([[0.1, 1.2], [2.0, 1.5], [4.0, 0.9], [6.0, 1.8]])
    config = CameraConfig("house", distribution="dataset")
    camera = camera_distribution(config, angles_N2).sample(COUNT, torch.Generator().manual_seed(3))
    found, counts = torch.unique(camera.angles_B2, dim=0, return_counts=True)
    assert torch.equal(found, angles_N2)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    # Distance and lens are the preset's.
    centre = torch.linalg.inv(camera.world2cam_B44[:5].double())[:, :3, 3]
    assert torch.allclose(centre.norm(dim=1), torch.full((5,), 2.0, dtype=torch.float64), atol=1e-5)
    assert float(camera.projection_44[0, 0]) == pytest.approx(1 / math.tan(math.radians(41) / 2))
    again = camera_distribution(config, angles_N2).sample(COUNT, torch.Generator().manual_seed(3))
    assert torch.equal(camera.angles_B2, again.angles_B2)
    with pytest.raises(ValueError, match="shape"):
        EmpiricalOrbit(NO_ANGLES)


@pytest.mark.parametrize("preset", ["house", "person", "animal", "car"])
def test_what_a_preset_must_hold_is_in_the_picture(preset: str) -> None:
    """With the longest side 0.8: a cube for houses, a standing post for people, a lying one for the others."""
    half = {"house": (0.4, 0.4, 0.4), "person": (0.2, 0.4, 0.15)}.get(preset, (0.15, 0.2, 0.4))
    corners = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * torch.tensor(
        half
    )
    camera = camera_distribution(CameraConfig(preset), NO_ANGLES).sample(
        500, torch.Generator().manual_seed(1)
    )
    clip = torch.stack([to_clip_space(corners, matrix) for matrix in camera.world2clip_B44])
    reach = (clip[..., :2].abs() / clip[..., 3:]).amax()
    assert 0.6 < float(reach) <= 1.0


def test_preview_stands_where_training_looks_from() -> None:
    camera = preview_cameras(OrbitSettings(), 8)
    assert torch.allclose(torch.rad2deg(camera.elevation_rad_B), torch.full((8,), 72.0))
    for orbit in CAMERA_PRESETS.values():
        elevation = 90 - float(torch.rad2deg(preview_cameras(orbit, 1).elevation_rad_B))
        assert orbit.elevation_deg[0] <= elevation <= orbit.elevation_deg[1]


def test_changes_of_a_preset() -> None:
    orbit = CameraConfig("person", radius=3.0, elevation_deg=(1.0, 2.0)).orbit
    assert orbit == dataclasses.replace(CAMERA_PRESETS["person"], radius=3.0, elevation_deg=(1.0, 2.0))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"preset": "hose"}, ["cameras.preset", "'hose'", "did you mean house"]),
        ({"distribution": "random"}, ["distribution", "orbit, dataset", "'random'"]),
        ({"rotation_deg": [200, 100]}, ["rotation_deg", "[200.0, 100.0]"]),
        ({"rotation_deg": [-90, 90]}, ["rotation_deg", "[-90.0, 90.0]"]),
        ({"elevation_deg": [0, 90]}, ["elevation_deg", "[0.0, 90.0]"]),
        ({"elevation_distribution": "gauss"}, ["elevation_distribution", "'gauss'"]),
        ({"elevation_distribution": "normal", "elevation_std_deg": 0}, ["elevation_std_deg", "0.0"]),
        ({"elevation_distribution": "normal", "elevation_mean_deg": 50}, ["elevation_mean_deg", "50.0"]),
        ({"radius": 0.1}, ["radius", "0.1"]),
        ({"field_of_view_deg": 180}, ["field_of_view_deg", "180"]),
        ({"radios": 2}, ["cameras.radios", "did you mean radius"]),
    ],
)
def test_mistakes_are_named(section: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        config_from_dict({"cameras": section})
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
