import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from components.render.inputs import (
    MeshFile,
    ViewAngles,
    find_meshes,
    find_split_files,
    split_shapes,
    view_angles,
)
from components.render.mesh_files import inspect_meshes
from components.render.settings import PixelSettings
from get3d_model.camera_settings import OrbitSettings
from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.rendering.environment import light_source


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_find_meshes(tmp_path):
    _touch(tmp_path, "b.glb", "a.OBJ", "a.mtl", "sub/deep/car.v2.gltf", "sub/x.ply", "note.txt")
    _touch(tmp_path, "._b.glb", ".cache/c.glb")
    found = find_meshes(tmp_path)
    assert [(mesh.shape_id, mesh.relative) for mesh in found] == [
        ("a", "a.OBJ"),
        ("b", "b.glb"),
        ("sub-deep-car-v2", "sub/deep/car.v2.gltf"),
        ("sub-x", "sub/x.ply"),
    ]
    assert all(mesh.path == tmp_path / mesh.relative for mesh in found)


@pytest.mark.parametrize("pair", [("a/b.glb", "a-b.glb"), ("a.glb", "a.obj"), ("a.b.ply", "a-b.ply")])
def test_two_files_with_one_id(tmp_path, pair):
    _touch(tmp_path, *pair)
    with pytest.raises(InputError, match="would both be shape") as caught:
        find_meshes(tmp_path)
    assert all(str(tmp_path / name) in str(caught.value) for name in pair)


def test_no_meshes(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_meshes(tmp_path / "absent")
    (tmp_path / "one.glb").write_text("")
    with pytest.raises(InputError, match=r"one\.glb is a file; give the folder"):
        find_meshes(tmp_path / "one.glb")
    (tmp_path / "one.glb").unlink()
    with pytest.raises(InputError, match=r"holds no .glb, .gltf, .obj, .ply file"):
        find_meshes(_touch(tmp_path, "a.stl"))


def test_links_are_followed_once(tmp_path):
    meshes = _touch(tmp_path / "meshes", "a.glb", "sub/b.glb")
    _touch(tmp_path / "elsewhere", "c.glb")
    (meshes / "here").symlink_to(".")
    (meshes / "sub/up").symlink_to("../..")
    (meshes / "other").symlink_to(tmp_path / "elsewhere")
    (meshes / "again").symlink_to("sub")
    found = [mesh.relative for mesh in find_meshes(meshes)]
    assert found == ["a.glb", "again/b.glb", "other/c.glb", "sub/b.glb"]


def test_a_name_that_is_no_utf_8(tmp_path):
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.glb"))
    path.write_text("x")
    (mesh,) = find_meshes(tmp_path)
    assert mesh == MeshFile("caf\\xe9", path, "caf\\xe9.glb")
    assert inspect_meshes([mesh], tmp_path)[mesh.shape_id].sha256 == sha256_file(path)
    assert split_shapes([mesh], [mesh], {}, 0.1, 0).lists["train"] == [mesh.shape_id]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    _touch(tmp_path, "a.glb", "shut/b.glb")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root may read everything
    with pytest.raises(InputError, match=r"shut cannot be read \(Permission denied\); give access"):
        find_meshes(tmp_path)


def test_the_hash_covers_the_files_a_mesh_names(tmp_path):
    _touch(tmp_path, "a.glb", "tex/skin.png", "paint.png", "scene.bin", "p.png", "unused.png")
    (tmp_path / "b.obj").write_text("mtllib b.mtl\nv 0 0 0\n")
    (tmp_path / "b.mtl").write_text("newmtl m\n  map_Kd tex/skin.png\n")
    document = {"buffers": [{"uri": "scene.bin"}], "images": [{"uri": "paint.png"}, {"uri": "data:,x"}, {}]}
    (tmp_path / "c.gltf").write_text(json.dumps(document))
    (tmp_path / "d.ply").write_bytes(b"ply\ncomment TextureFile p.png\nend_header\n\xff\x00")
    (tmp_path / "e.gltf").write_text("damaged")
    (tmp_path / "f.obj").write_text("mtllib missing.mtl\n")

    def hashes() -> dict[str, str]:
        facts = inspect_meshes(find_meshes(tmp_path), tmp_path)
        return {shape_id: fact.sha256 for shape_id, fact in facts.items()}

    before = hashes()
    assert len(set(before.values())) == 6
    for shape_id, name in (("a", "a.glb"), ("e", "e.gltf"), ("f", "f.obj")):
        assert before[shape_id] == sha256_file(tmp_path / name)
    for name, owner in (
        ("tex/skin.png", "b"),
        ("b.mtl", "b"),
        ("b.obj", "b"),
        ("scene.bin", "c"),
        ("paint.png", "c"),
        ("p.png", "d"),
        ("unused.png", None),
    ):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b"\n")
        after = hashes()
        assert [shape_id for shape_id in before if before[shape_id] != after[shape_id]] == [owner] * (
            owner is not None
        )
        (tmp_path / name).write_bytes(content)


def test_view_angles_cover_the_ranges_uniformly():
    angles = [view for shape in range(100) for view in view_angles(f"shape{shape}", 24, seed=0)]
    rotation = np.array([view.rotation_deg for view in angles]) / 360
    elevation = np.array([view.elevation_deg for view in angles]) / 30
    for unit in (rotation, elevation):
        assert unit.min() >= 0
        assert unit.max() < 1
        # Kolmogorov-Smirnov distance from the uniform distribution; 1.95 / sqrt(n) has a chance of 0.1 %.
        steps = np.arange(1, len(unit) + 1) / len(unit)
        assert np.abs(np.sort(unit) - steps).max() < 1.95 / len(unit) ** 0.5
    assert abs(np.corrcoef(rotation, elevation)[0, 1]) < 0.1


def test_view_angles_are_where_the_cameras_stand():
    orbit = OrbitSettings(
        (90.0, 180.0),
        (-20.0, 60.0),
        elevation_distribution="normal",
        elevation_mean_deg=5.0,
        elevation_std_deg=20.0,
    )
    angles = [view for shape in range(100) for view in view_angles(f"shape{shape}", 24, 0, orbit)]
    rotation = np.array([view.rotation_deg for view in angles])
    elevation = np.array([view.elevation_deg for view in angles])
    assert stats.kstest(rotation, stats.uniform(90, 90).cdf).pvalue > 1e-3
    assert stats.kstest(elevation, stats.truncnorm(-1.25, 2.75, loc=5, scale=20).cdf).pvalue > 1e-3


def test_view_angles_depend_on_shape_seed_and_view_only():
    assert view_angles("car", 24, 3)[:5] == view_angles("car", 5, 3)
    assert view_angles("car", 1, 3) != view_angles("car", 1, 4)
    assert view_angles("car", 1, 3) != view_angles("cars", 1, 3)
    # Recorded once: other numbers would change every data set.
    assert view_angles("car", 1, 0) == [ViewAngles(195.311458, 9.284032)]


def _mesh(relative: str) -> MeshFile:
    return MeshFile(relative.rpartition(".")[0].replace("/", "-").replace(".", "-"), Path(relative), relative)


def _split(tmp_path, files, names, rendered=None):
    paths = {}
    for name, content in files.items():
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text(content)
    meshes = [_mesh(name) for name in names]
    chosen = [mesh for mesh in meshes if rendered is None or mesh.relative in rendered]
    return split_shapes(chosen, meshes, paths, 0.1, 0)


def test_split_ids_match_stems_paths_and_folders(tmp_path):
    names = ["a.glb", "sub/b.glb", "sub/c.v2.glb", "1f2e/models/model_normalized.obj", "x/y.ply"]
    splits = _split(tmp_path, {"train": "a\nb\n1f2e\nx/y\n", "val": "c.v2\n"}, names)
    assert splits.lists == {
        "train": ["1f2e-models-model_normalized", "a", "sub-b", "x-y"],
        "val": ["sub-c-v2"],
    }
    assert splits.notes == []


def test_split_files_and_meshes_that_do_not_match(tmp_path):
    names = ["a.glb", "b.glb", "new.glb", "bad.glb"]
    splits = _split(tmp_path, {"train": "a\nbad\ngone\nlost\n", "val": "b\n"}, names, rendered=names[:3])
    assert splits.lists == {"train": ["a", "new"], "val": ["b"]}
    # A mesh that was set aside is not a missing mesh.
    assert splits.notes == [
        "2 listed ids have no mesh, such as 'gone'",
        "1 shapes are in no split file and go to train, such as 'new'",
    ]


def test_a_mesh_in_two_splits_by_two_names(tmp_path):
    with pytest.raises(InputError, match="'b' and 'sub-b' in different splits"):
        _split(tmp_path, {"train": "b\n", "val": "sub-b\n"}, ["sub/b.glb"])


def test_without_files_the_split_is_by_hash(tmp_path):
    splits = _split(tmp_path, {}, [f"{i}.glb" for i in range(10)])
    assert len(splits.lists["train"]) + len(splits.lists["val"]) == 10
    assert splits.lists["val"]


def test_where_split_files_are_looked_for(tmp_path):
    meshes, other = tmp_path / "meshes", tmp_path / "other"
    meshes.mkdir()
    other.mkdir()
    assert find_split_files(meshes, None) == {}
    _touch(tmp_path, "train.txt", "val.txt")
    assert find_split_files(meshes, None) == {name: tmp_path / f"{name}.txt" for name in ("train", "val")}
    _touch(meshes, "train.txt", "test.txt")
    assert find_split_files(meshes, None) == {name: meshes / f"{name}.txt" for name in ("train", "test")}
    with pytest.raises(InputError, match=r"other/train.txt does not exist"):
        find_split_files(meshes, other)
    (tmp_path / "train.txt").rename(other / "train.txt")
    assert find_split_files(meshes, other) == {"train": other / "train.txt"}
    (meshes / "train.txt").unlink()
    with pytest.raises(InputError, match=r"meshes/train.txt does not exist"):
        find_split_files(meshes, None)


def test_another_light_is_another_picture():
    usual = PixelSettings()
    keys = {
        replace(usual, lighting=light_source(name)).key("v", "a", "0")
        for name in ("studio", "area", "flat", "sunny")
    }
    assert len(keys) == 4 and usual.key("v", "a", "0") in keys
