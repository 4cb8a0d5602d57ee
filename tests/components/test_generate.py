"""Seeds as typed, meshes from a checkpoint, walks between two, and pictures of meshes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.generate.seeds import MAX_SEEDS, parse_seeds
from components.generate.strip import BACK, mesh_pictures
from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.mesh_io import load_textured_mesh
from get3d_model.types import TexturedMesh
from pipelines import cli
from tests.serving.tiny import write_checkpoint

COLORS = {
    "front": (255, 0, 0),
    "right": (0, 255, 0),
    "back": (0, 0, 255),
    "left": (255, 255, 0),
    "top": (255, 0, 255),
    "bottom": (0, 255, 255),
}
NORMALS = {
    "front": (0, 0, 1),
    "right": (1, 0, 0),
    "back": (0, 0, -1),
    "left": (-1, 0, 0),
    "top": (0, 1, 0),
    "bottom": (0, -1, 0),
}


def coloured_box(half_extents: tuple[float, float, float]) -> TexturedMesh:
    """A box whose sides have the colours of COLORS; front is +z, right +x."""
    vertices, faces, uvs = [], [], []
    for index, normal in enumerate(NORMALS.values()):
        n = np.array(normal, float)
        u = np.roll(n, 1)
        v = np.cross(n, u)
        corners = [n + a * u + b * v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        vertices += [corner * half_extents for corner in corners]
        faces += [[4 * index, 4 * index + 1, 4 * index + 2], [4 * index, 4 * index + 2, 4 * index + 3]]
        uvs += [((index + 0.5) / len(NORMALS), 0.5)] * 4
    texture_HW3 = np.repeat(np.array([list(COLORS.values())], np.uint8), 4, axis=1)
    return TexturedMesh(
        np.array(vertices, np.float32), np.array(faces, np.int32), np.array(uvs, np.float32), texture_HW3
    )


def sides_seen(picture_HW3: np.ndarray) -> set[str]:
    return {name for name, color in COLORS.items() if (picture_HW3 == color).all(axis=2).sum() > 20}


def drawn(picture_HW3: np.ndarray) -> np.ndarray:
    return (picture_HW3 < 250).any(axis=2)


def test_pictures_show_the_front_three_quarter_from_above_and_the_back() -> None:
    box = coloured_box((0.15, 0.15, 0.4))
    assert sides_seen(mesh_pictures([box], 64)[0]) == {"front", "right", "top"}
    assert sides_seen(mesh_pictures([box], 64, viewpoint=BACK)[0]) == {"back", "left", "top"}


def test_pictures_fit_the_largest_mesh_and_keep_relative_sizes() -> None:
    large, small = coloured_box((0.5, 0.5, 0.5)), coloured_box((0.1, 0.1, 0.1))
    pictures = [drawn(picture) for picture in mesh_pictures([large, small], 64)]
    border = np.ones((64, 64), bool)
    border[1:-1, 1:-1] = False
    assert not (pictures[0] & border).any()
    sizes = [max(int(picture.any(axis=axis).sum()) for axis in (0, 1)) for picture in pictures]
    # The lower corner is nearest and touches the margin; the upper ones stay a little away from theirs.
    assert sizes[0] >= 50
    # A fifth of the size; its near side is enlarged less by perspective.
    assert 0.15 < sizes[1] / sizes[0] < 0.21
    alone = drawn(mesh_pictures([small], 64)[0])
    assert alone.any(axis=0).sum() > 1.5 * sizes[1]


def test_picture_of_an_empty_mesh_is_white_with_a_label() -> None:
    box = coloured_box((0.2, 0.2, 0.2))
    full, empty = mesh_pictures([box, replace(box, faces_F3=box.faces_F3[:0])], 96)
    assert full.shape == empty.shape == (96, 96, 3) and empty.dtype == np.uint8
    label = drawn(empty)
    assert label.any() and label[40:56].sum() == label.sum()


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1,5, 9-11", [1, 5, 9, 10, 11]), ("7-7", [7]), ("4,4", [4, 4])],
)
def test_seeds_as_people_type_them(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "5-3", "1,,2", "1.5", "²", f"0-{MAX_SEEDS}"])
def test_other_seed_lists_are_refused_with_what_was_typed(text: str) -> None:
    with pytest.raises(InputError, match="--seeds") as error:
        parse_seeds(text)
    assert repr(text) in str(error.value)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_generate_writes_the_meshes_of_its_seeds(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "meshes"
    command = ["generate", "--checkpoint", str(checkpoint), "--out", str(out), "--texture-resolution", "64"]
    assert cli.main([*command, "--seeds", "2,5"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["seed0002.glb", "seed0005.glb"]
    expected = Sampler.load(checkpoint).generate([2, 5], 0.7, 64)[1]
    mesh = load_textured_mesh(out / "seed0005.glb")
    assert mesh.extras["seed"] == 5 and mesh.extras["truncation_psi"] == 0.7
    np.testing.assert_allclose(
        mesh.vertices_V3[mesh.faces_F3], expected.vertices_V3[expected.faces_F3], atol=1e-6
    )


def test_generate_refuses_a_texture_size_that_is_no_power_of_two(checkpoint: Path, tmp_path: Path) -> None:
    command = ["generate", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--texture-resolution", "100"]) == 2
    assert not (tmp_path / "out").exists()
