"""What `get3d generate` can be asked for beside seeds: the atlas, the texture's format, colours at vertices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from get3d_model.inference import Sampler
from get3d_model.mesh_io import load_textured_mesh, mesh_bytes
from get3d_model.rendering.uv_atlas import XatlasAtlas
from pipelines import cli
from tests.serving.tiny import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def generate(checkpoint: Path, out: Path, *options: str) -> int:
    command = ["generate", "--checkpoint", str(checkpoint), "--out", str(out), "--seeds", "3"]
    return cli.main([*command, "--texture-resolution", "64", *options])


def test_atlases(checkpoint: Path, tmp_path: Path) -> None:
    for name, atlas in (("fast", None), ("xatlas", XatlasAtlas())):
        assert generate(checkpoint, tmp_path / name, "--atlas", name) == 0
        expected = Sampler.load(checkpoint, atlas=atlas).generate([3], 0.7, 64)[0]
        assert (tmp_path / name / "seed0003.glb").read_bytes() == mesh_bytes(expected, "glb")
    assert generate(checkpoint, tmp_path / "default") == 0
    names = ("default", "fast", "xatlas")
    default, fast, xatlas = ((tmp_path / name / "seed0003.glb").read_bytes() for name in names)
    assert default == fast != xatlas


def test_texture_formats(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("png", "jpeg"):
        assert generate(checkpoint, tmp_path / name, "--texture-format", name) == 0
    png, jpeg = (tmp_path / name / "seed0003.glb" for name in ("png", "jpeg"))
    assert b"image/png" in png.read_bytes() and b"image/jpeg" in jpeg.read_bytes()
    textures = [load_textured_mesh(path).texture_HW3.astype(int) for path in (png, jpeg)]
    assert 0 < np.abs(textures[0] - textures[1]).mean() < 8


@pytest.mark.parametrize("file_format", ["glb", "ply"])
def test_vertex_colors(file_format: str, checkpoint: Path, tmp_path: Path) -> None:
    assert generate(checkpoint, tmp_path, "--vertex-colors", "--format", file_format) == 0
    (expected,) = Sampler.load(checkpoint).generate_colored([3], 0.7)
    content = (tmp_path / f"seed0003.{file_format}").read_bytes()
    assert content == mesh_bytes(expected, file_format) and b"image" not in content
    mesh = load_textured_mesh(tmp_path / f"seed0003.{file_format}")
    assert len(mesh.faces_F3) == len(expected.faces_F3)


def test_a_seed_that_is_named_twice_is_one_mesh(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(checkpoint, tmp_path, "--seeds", "4,3-4") == 0
    assert f"2 meshes in {tmp_path}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed0003.glb", "seed0004.glb"]


def test_vertex_colors_cannot_be_an_obj(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(checkpoint, tmp_path / "out", "--vertex-colors", "--format", "obj") == 2
    assert "--vertex-colors cannot be written as --format obj; use glb or ply" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
