"""Lighting against closed forms: cones, even and half skies, spherical harmonics; and the files it comes from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from get3d_model.cameras import turntable
from get3d_model.errors import InputError
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.environment import ENVIRONMENTS, light_source
from get3d_model.rendering.lighting import (
    AreaLight,
    EnvironmentLight,
    Lighting,
    cap_light,
    environment_light,
    equirect_directions,
    octahedral_normals,
)
from get3d_model.rendering.mesh_renderer import MeshRenderer
from tests.get3d_model.rendering.test_mesh_renderer import WHITE_11, sphere


def test_a_cone_that_is_faced_gives_the_square_of_its_sine() -> None:
    for half_angle in (0.3, 1.0, math.pi / 2):
        assert cap_light(np.zeros(1), half_angle)[0] == pytest.approx(math.sin(half_angle) ** 2, abs=1e-5)
    # A half space of light: (1 + cos) / 2 at every angle; seen from behind nothing.
    angle_N = np.linspace(0, math.pi, 9)
    np.testing.assert_allclose(cap_light(angle_N, math.pi / 2), (1 + np.cos(angle_N)) / 2, atol=1e-5)
    assert cap_light(np.array([math.pi]), 1.0)[0] == 0.0


def test_a_cone_against_random_directions() -> None:
    rng = np.random.default_rng(0)
    half_angle, angle, count = 1.19, 1.4, 400_000
    cosine = rng.uniform(math.cos(half_angle), 1.0, count)  # uniform over the cone
    turn = rng.uniform(0, 2 * math.pi, count)
    sine = np.sqrt(1 - cosine**2)
    directions = np.stack([sine * np.cos(turn), cosine, sine * np.sin(turn)], axis=1)
    normal = np.array([math.sin(angle), math.cos(angle), 0.0])
    solid = 2 * math.pi * (1 - math.cos(half_angle))
    expected = np.maximum(directions @ normal, 0).mean() * solid / math.pi
    assert cap_light(np.array([angle]), half_angle)[0] == pytest.approx(expected, rel=5e-3)


def test_octahedral_nodes_are_unit_directions_all_around() -> None:
    normals = octahedral_normals(33)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1.0, atol=1e-12)
    np.testing.assert_allclose(normals[16, 16], (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(normals[0, 0], (0, -1, 0), atol=1e-12)
    np.testing.assert_allclose(normals[16, 32], (1, 0, 0), atol=1e-12)
    # Both nodes of a fold are the same direction.
    np.testing.assert_allclose(normals[0, 5], normals[0, -6], atol=1e-12)


def test_light_of_an_even_and_of_a_linear_environment() -> None:
    directions = equirect_directions(64, 128)
    normals = octahedral_normals(9).reshape(-1, 3)
    even = np.ones_like(directions)
    np.testing.assert_allclose(environment_light(even, normals), 1.0, atol=2e-3)
    # 1 + y: the cosine lobe keeps 2/3 of the first order. Source: Ramamoorthi and Hanrahan 2001.
    linear = 1.0 + directions[..., 1:2].repeat(3, axis=2)
    expected = 1.0 + 2.0 / 3.0 * normals[:, 1:2].repeat(3, axis=1)
    np.testing.assert_allclose(environment_light(linear, normals), expected, atol=3e-3)


@pytest.mark.parametrize("axis, sign", [(0, 1), (0, -1), (1, 1), (2, 1), (2, -1)])
def test_pictures_show_the_light_of_the_map(axis: int, sign: int) -> None:
    """A coloured spot in the environment lights the side of a white ball that faces it, as the map says."""
    directions = equirect_directions(64, 128)
    spot = (directions[..., axis] * sign > 0.95).astype(np.float32)[..., None] * np.array([1.0, 0.5, 0.0])
    light = EnvironmentLight("spot", "", spot.astype(np.float32))
    image = MeshRenderer(CpuRasterizer(threads=1), 48, 2, light).render(sphere(0.4, WHITE_11), turntable(4))
    camera = turntable(4)
    centres = torch.linalg.inv(camera.world2cam_B44.double())[:, :3, 3].numpy()
    seen = image[..., 0].astype(float).sum(axis=(1, 2))
    facing = centres[:, axis] * sign
    if axis != 1:
        assert seen.argmax() == facing.argmax() and seen[facing.argmax()] > 3 * seen[facing.argmin()]
    bright = image[image[..., 0] > 200]
    assert len(bright) and (bright[:, 2] == 0).all()
    linear = ((bright[:, :2] / 255.0 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(linear[:, 1] / linear[:, 0], 0.5, atol=0.02)


def test_no_source_cuts_a_colour_off_and_all_are_described() -> None:
    descriptions = set()
    for name in ("studio", "area", "flat", *ENVIRONMENTS):
        source = light_source(name)
        light_map = source.irradiance_map()
        assert light_map is None or (light_map.min() >= 0 and light_map.max() <= 1.0 + 1e-6)
        assert light_map is None or light_map.max() > 0.99
        descriptions.add(str(source.describe()))
    assert len(descriptions) == 3 + len(ENVIRONMENTS)


def test_the_area_light_shades_from_above_and_leaves_no_side_black() -> None:
    light_map = AreaLight().irradiance_map()
    middle = len(light_map) // 2
    up, level, down = (light_map[node].mean() for node in ((middle, middle), (middle, 0), (0, 0)))
    assert up == pytest.approx(1.0, abs=1e-4) and down == pytest.approx(0.12, abs=1e-4)
    assert 0.3 < level < 0.7  # a light this wide reaches upright walls


def _hdr(radiance: np.ndarray, run_lengths: bool) -> bytes:
    """A Radiance file written by hand."""
    height, width, _ = radiance.shape
    exponent = np.where(
        radiance.max(2) > 0, np.ceil(np.log2(np.maximum(radiance.max(2), 1e-30))) + 1, 0
    ).astype(int)
    mantissa = np.floor(radiance / np.ldexp(1.0, exponent - 8)[..., None]).clip(0, 255)
    rgbe = np.concatenate(
        [mantissa, np.where(radiance.max(2) > 0, exponent + 128, 0)[..., None]], axis=2
    ).astype(np.uint8)
    body = b""
    for row in rgbe:
        if not run_lengths:
            body += row.tobytes()
            continue
        body += bytes([2, 2, width >> 8, width & 255])
        for channel in range(4):
            values = row[:, channel]
            # Half as one run where it is even, the rest as it stands.
            half = width // 2
            if (values[:half] == values[0]).all():
                body += bytes([128 + half, values[0]])
            else:
                body += bytes([half]) + values[:half].tobytes()
            body += bytes([width - half]) + values[half:].tobytes()
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + f"-Y {height} +X {width}\n".encode() + body


@pytest.mark.parametrize("run_lengths", [False, True])
def test_radiance_files(tmp_path: Path, run_lengths: bool) -> None:
    radiance = np.random.default_rng(0).uniform(0.01, 30.0, (8, 16, 3))
    radiance[:, :8] = radiance[0, 0]
    path = tmp_path / "sky.hdr"
    path.write_bytes(_hdr(radiance, run_lengths))
    source = light_source(str(path))
    np.testing.assert_allclose(source.radiance_HW3, radiance, atol=30.0 / 64)
    assert source.describe()["name"] == "sky.hdr" and len(source.describe()["sha256"]) == 64
    path.write_bytes(_hdr(radiance, run_lengths)[:-20])
    with pytest.raises(InputError, match="ends early"):
        light_source(str(path))


def test_pictures_as_environments_and_what_is_refused(tmp_path: Path) -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8] = (0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "blue.png")
    light_map = light_source(str(tmp_path / "blue.png")).irradiance_map()
    assert light_map[..., :2].max() == 0 and light_map[32, 32, 2] > 0.99
    Image.fromarray(picture * 0).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.hdr").write_text("no picture")
    for name, words in (
        ("black.png", "black"),
        ("text.png", "decoded"),
        ("text.hdr", "header"),
        ("none.png", "cannot be read"),
        ("moon", "neither"),
    ):
        with pytest.raises(InputError, match=words):
            light_source(str(tmp_path / name))


def test_the_usual_lighting_is_described_as_before() -> None:
    """Data sets rendered earlier stay current."""
    described = Lighting().describe()
    assert described["key_direction"] == [0.55, 0.75, 0.65] and set(described) == {
        "sky", "ground", "key", "key_direction", "fill", "fill_direction",
    }  # fmt: skip
