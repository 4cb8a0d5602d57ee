"""`get3d synth`: files, splits, repeatability, refusals."""

import subprocess
import sys

import pytest

from components.synth.main import main, split_ids
from get3d_model.mesh_io import load_textured_mesh
from tests.commands import refusal


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_writes_vehicles_and_splits(tmp_path):
    assert main([str(tmp_path / "cars"), "--count", "9", "--seed", "5"]) == 0
    files = contents(tmp_path / "cars")
    assert sorted(files) == ["train.txt"] + ["val.txt"] + [f"vehicle_{i:04d}.glb" for i in range(9)]
    train, val = (files[f"{name}.txt"].decode().split() for name in ("train", "val"))
    assert sorted(train + val) == [f"vehicle_{i:04d}" for i in range(9)] and val == ["vehicle_0007"]
    mesh = load_textured_mesh(tmp_path / "cars" / "vehicle_0003.glb")
    assert mesh.extras["index"] == 3 and mesh.extras["seed"] == 5 and len(mesh.faces_F3) > 1500


def test_repeats_byte_for_byte_and_does_not_depend_on_the_count(tmp_path):
    assert main([str(tmp_path / "a"), "--count", "2", "--seed", "1"]) == 0
    first = contents(tmp_path / "a")
    assert main([str(tmp_path / "a"), "--count", "2", "--seed", "1"]) == 0
    assert contents(tmp_path / "a") == first
    assert main([str(tmp_path / "b"), "--count", "3", "--seed", "1"]) == 0
    for name in ("vehicle_0000.glb", "vehicle_0001.glb"):
        assert contents(tmp_path / "b")[name] == first[name]


@pytest.mark.parametrize("count", [2, 7, 8, 9, 16, 100])
def test_splits_are_complete(count):
    splits = split_ids(count)
    assert splits["train"] and splits["val"]
    assert not set(splits["train"]) & set(splits["val"])
    assert len(splits["train"]) + len(splits["val"]) == count
    assert abs(len(splits["val"]) - count / 8) <= 1


def test_refuses_bad_values(tmp_path, capsys):
    assert "at least 2" in refusal(main, [tmp_path / "a", "--count", 1], capsys)
    assert "negative" in refusal(main, [tmp_path / "a", "--count", 2, "--seed", "-1"], capsys)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(main, [tmp_path / "file", "--count", 2], capsys)


def test_refuses_a_folder_with_other_meshes(tmp_path, capsys):
    assert main([str(tmp_path), "--count", "3"]) == 0
    assert "vehicle_0002.glb" in refusal(main, [tmp_path, "--count", 2], capsys)


def test_far_too_many_are_refused_before_anything_is_counted(tmp_path, capsys):
    assert "at most 1000000" in refusal(main, [tmp_path / "out", "--count", 10**11], capsys)
    assert not (tmp_path / "out").exists()


def test_no_progress_bar_without_a_terminal(tmp_path):
    command = [sys.executable, "-m", "components.synth.main", str(tmp_path / "a"), "--count", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and "2 vehicles" in done.stdout
