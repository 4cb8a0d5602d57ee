"""`get3d interpolate`, `perturb` and `swap`: the files they write and what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.generate.animation import save_animation
from components.generate.strip import mesh_pictures
from get3d_model.inference import Sampler
from get3d_model.mesh_io import load_textured_mesh
from get3d_model.types import TexturedMesh
from pipelines import cli
from tests.get3d_model.test_walks import write_conditional
from tests.serving.tiny import write_checkpoint

SMALL = ["--texture-resolution", "64", "--view-resolution", "48"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditional(tmp_path_factory.mktemp("conditional"))


def run(command: str, checkpoint: Path, out: Path, *options: str) -> int:
    return cli.main([command, "--checkpoint", str(checkpoint), "--out", str(out), *SMALL, *options])


def surface(mesh: TexturedMesh) -> np.ndarray:
    """Corners of all triangles, sorted: the same for the same surface however it was unwrapped."""
    corners = mesh.vertices_V3[mesh.faces_F3].reshape(-1, 3)
    return corners[np.lexsort(corners.round(4).T)]


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("space", ["z", "w"])
def test_interpolate(space: str, checkpoint: Path, tmp_path: Path) -> None:
    options = ["--from-seed", "1", "--to-seed", "4", "--steps", "3", "--space", space]
    assert run("interpolate", checkpoint, tmp_path, *options) == 0
    names = ["step00.glb", "step01.glb", "step02.glb", "strip.png", "walk.webp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    ends = Sampler.load(checkpoint).generate([1, 4], 0.7, 64)
    for name, end in zip(("step00.glb", "step02.glb"), ends, strict=True):
        np.testing.assert_allclose(surface(load_textured_mesh(tmp_path / name)), surface(end), atol=1e-4)
    extras = load_textured_mesh(tmp_path / "step01.glb").extras
    assert (extras["weight"], extras["space"], extras["to_seed"]) == (0.5, space, 4)
    strip = np.split(picture(tmp_path / "strip.png"), 3, axis=1)
    with Image.open(tmp_path / "walk.webp") as walk:
        assert walk.format == "WEBP" and walk.size == (48, 48)
        assert walk.n_frames == 4, "there and back, the ends once"
        for frame, expected in enumerate((0, 1, 2, 1)):
            walk.seek(frame)
            shown = np.asarray(walk.convert("RGB")).astype(int)
            assert np.abs(shown - strip[expected]).mean() < 6, "lossy, but the picture of the strip"


def test_files_of_a_longer_run_are_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("step02.glb", "step03.glb", "seed0001_near09.glb", "seed0002_near01.glb"):
        (tmp_path / name).write_text("earlier")
    assert run("interpolate", checkpoint, tmp_path, "--from-seed", "1", "--to-seed", "4", "--steps", "2") == 0
    assert "(step02.glb to step03.glb: of an earlier run)" in capsys.readouterr().out
    assert run("perturb", checkpoint, tmp_path, "--seed", "1", "--count", "1") == 0
    assert "(seed0001_near09.glb: of an earlier run)" in capsys.readouterr().out
    assert (tmp_path / "step03.glb").read_text() == "earlier"


def test_an_animation_is_its_frames(tmp_path: Path) -> None:
    colours = [(220, 30, 30), (30, 200, 30), (40, 40, 220)]
    frames = [np.full((32, 32, 3), colour, np.uint8) for colour in colours]
    save_animation(frames, tmp_path / "walk.webp")
    with Image.open(tmp_path / "walk.webp") as walk:
        shown = []
        for frame in range(walk.n_frames):
            walk.seek(frame)
            shown.append(np.asarray(walk.convert("RGB")).mean(axis=(0, 1)))
        assert walk.info["loop"] == 0
    np.testing.assert_allclose(shown, [colours[0], colours[1], colours[2], colours[1]], atol=6)


def test_perturb(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--seed", "3", "--count", "2", "--sigma", "0.4", "--part", "texture"]
    assert run("perturb", checkpoint, tmp_path, *options) == 0
    names = ["seed0003.glb", "seed0003_near01.glb", "seed0003_near02.glb", "strip.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    meshes = [load_textured_mesh(tmp_path / name) for name in names[:3]]
    (own,) = Sampler.load(checkpoint).generate([3], 0.7, 64)
    for mesh in meshes:
        np.testing.assert_allclose(surface(mesh), surface(own), atol=1e-4)
    extras = meshes[2].extras
    assert (extras["sigma"], extras["part"], extras["neighbour"], extras["seed"]) == (0.4, "texture", 2, 3)
    # Last bits decide how a mesh is unwrapped, so colours are compared in pictures.
    (expected,) = mesh_pictures([own], 48)
    parts = np.split(picture(tmp_path / "strip.png").astype(int), 3, axis=1)
    first, second, third = (np.abs(part - expected).mean() for part in parts)
    assert first < 0.5 * min(second, third)


def test_swap(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--geometry-seeds", "0,2", "--texture-seeds", "4-6"]
    assert run("swap", checkpoint, tmp_path, *options) == 0
    names = [f"geometry{g:04d}_texture{t:04d}.glb" for g in (0, 2) for t in (4, 5, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "grid.png"])
    own = Sampler.load(checkpoint).generate([0, 2], 0.7, 64)
    for index, name in enumerate(names):
        mesh = load_textured_mesh(tmp_path / name)
        np.testing.assert_allclose(surface(mesh), surface(own[index // 3]), atol=1e-4)
        assert (mesh.extras["seed"], mesh.extras["texture_seed"]) == ((0, 2)[index // 3], 4 + index % 3)
    grid = picture(tmp_path / "grid.png")
    assert grid.shape == (2 * 48, 3 * 48, 3)
    # One geometry in a row: the same silhouette; the row below has another.
    drawn = (grid < 250).any(axis=-1).reshape(2, 48, 3, 48).swapaxes(1, 2)
    assert (drawn[0, 0] != drawn[0, 1]).mean() < 0.05
    assert (drawn[0, 0] != drawn[1, 0]).mean() > 0.005


def test_class_and_average_by_option(conditional: Path, tmp_path: Path) -> None:
    command = ["generate", "--checkpoint", str(conditional), "--out", str(tmp_path), "--seeds", "5"]
    command += ["--texture-resolution", "64", "--class", "cars", "--w-avg-samples", "500"]
    assert cli.main(command) == 0
    sampler = Sampler.load(conditional)
    sampler.recompute_averages(500)
    (expected,) = sampler.with_class("1").generate([5], 0.7, 64)
    mesh = load_textured_mesh(tmp_path / "seed0005.glb")
    assert mesh.extras["class"] == expected.extras["class"] == "cars"
    np.testing.assert_allclose(surface(mesh), surface(expected), atol=1e-5)
    (other,) = sampler.with_class("vans").generate([5], 0.7, 64)
    assert surface(other).shape != surface(mesh).shape or not np.allclose(surface(other), surface(mesh))
    assert (
        run(
            "swap",
            conditional,
            tmp_path / "swap",
            "--class",
            "0",
            "--texture-seeds",
            "4",
            "--geometry-seeds",
            "1",
        )
        == 0
    )


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("interpolate", ["--steps", "1"], "--steps 1"),
        ("perturb", ["--count", "0"], "--count 0"),
        ("perturb", ["--sigma", "-1"], "sigma -1.0"),
        ("swap", ["--texture-seeds", "4-"], "--texture-seeds '4-'"),
        ("swap", ["--geometry-seeds", "0-199", "--texture-seeds", "0-99"], "200 x 100 shapes"),
        ("swap", ["--class", "cars"], "tiny has no classes"),
        ("perturb", ["--view-resolution", "8"], "--view-resolution 8"),
        ("perturb", ["--w-avg-samples", "-1"], "--w-avg-samples -1"),
        ("interpolate", ["--truncation-psi", "3"], "truncation_psi 3.0"),
    ],
)
def test_bad_options_are_one_line(
    command: str,
    options: list[str],
    words: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(command, checkpoint, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
