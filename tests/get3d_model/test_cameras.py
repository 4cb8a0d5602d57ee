"""Cameras against the geometry they are defined by."""

import math

import pytest
import torch

from get3d_model.cameras import UniformOrbit, orbit_camera, orbit_positions, to_clip_space, turntable


def test_camera_looks_at_the_origin_upright():
    camera = orbit_camera(torch.tensor([0.3, 4.0]), torch.tensor([1.1, 1.5]))
    origin = torch.linalg.solve(camera.world2cam_B44[:, :3, :3], -camera.world2cam_B44[:, :3, 3:]).squeeze(-1)
    assert torch.allclose(
        origin, orbit_positions(camera.rotation_rad_B, camera.elevation_rad_B, 1.2), atol=1e-6
    )
    for view in range(2):
        clip = to_clip_space(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), camera.world2clip_B44[view])
        ndc = clip[:, :3] / clip[:, 3:]
        assert torch.allclose(ndc[0, :2], torch.zeros(2), atol=1e-6)
        assert ndc[1, 1] < -0.01, "world up is towards row 0"
        assert abs(ndc[1, 0]) < 1e-6


def test_field_of_view_is_the_35_mm_lens():
    camera = orbit_camera(torch.tensor([0.0]), torch.tensor([math.pi / 2]))
    half = 1.2 * 16 / 35
    top = to_clip_space(torch.tensor([[0.0, half, 0.0]]), camera.world2clip_B44[0])[0]
    assert float(top[1] / top[3]) == pytest.approx(-1.0, abs=1e-5)


def test_uniform_orbit_fills_its_ranges_and_repeats():
    orbit = UniformOrbit()
    camera = orbit.sample(2000, torch.Generator().manual_seed(1))
    again = orbit.sample(2000, torch.Generator().manual_seed(1))
    assert torch.equal(camera.angles_B2, again.angles_B2)
    assert 0 <= camera.rotation_rad_B.min() < 0.05 and 6.2 < camera.rotation_rad_B.max() < 2 * math.pi
    assert camera.elevation_rad_B.min() >= math.pi / 3 and camera.elevation_rad_B.max() <= math.pi / 2


def test_turntable_and_slices():
    camera = turntable(8)
    assert len(camera) == 8
    assert torch.allclose(camera.rotation_rad_B.diff(), torch.full((7,), math.pi / 4))
    assert torch.equal(camera[2:4].world2cam_B44, camera.world2cam_B44[2:4])
