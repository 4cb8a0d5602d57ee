"""Input as people have it: zips, ShapeNet's folders, other axes, labels, captions, copies, missing files."""

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from components.render.axes import AXES, Axes
from components.render.inputs import find_meshes
from components.render.job import render_dataset
from components.render.main import main
from components.render.mesh_files import inspect_meshes
from components.render.settings import PixelSettings, RenderOptions
from components.render.shapenet import shapenet_names
from components.render.tables import match_table, read_scales, read_table
from get3d_model.cameras import turntable
from get3d_model.data.manifest import read_manifest
from get3d_model.data.parts import Shard, merge_parts
from get3d_model.data.shard_source import ShardSource
from get3d_model.errors import InputError
from get3d_model.mesh_io import normalize, save_mesh
from get3d_model.png import fast_png
from get3d_model.rendering.mesh_renderer import MeshRenderer
from get3d_model.rendering.select import make_rasterizer
from get3d_model.types import TexturedMesh
from tests.components.render_fakes import make_fake_renderer
from tests.components.render_helpers import render_in_process
from tests.get3d_model.test_mesh_io import quarters, sphere

PIXELS = PixelSettings(views=2, resolution=16, supersample=1)
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 {} 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\n"


@pytest.fixture(autouse=True)
def in_process(monkeypatch) -> Iterator[None]:
    yield from render_in_process(monkeypatch)


def obj(path: Path, height: float = 1.0, texture: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    library = "" if texture is None else f"mtllib {path.stem}.mtl\n"
    path.write_text(library + TRIANGLE.format(height))
    if texture is not None:
        path.with_suffix(".mtl").write_text(f"newmtl a\nKd 1 0 0\nmap_Kd {texture}\n")


def render(meshes: Path, out: Path, log: Path | None = None, **options):
    def renderer(settings):
        return make_fake_renderer(settings, log=log)

    return render_dataset(
        RenderOptions(meshes, out, **{"pixels": PIXELS, "workers": 1} | options), renderer, "fake-1"
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cameras(out: Path) -> list[dict]:
    with tarfile.open(out / "shards/000000.tar") as shard:
        return [json.loads(shard.extractfile(m).read()) for m in shard if m.name.endswith(".json")]


def test_a_zip_gives_the_data_set_of_its_folder(tmp_path):
    for number in range(3):
        obj(tmp_path / "cars" / f"car{number}.obj", number + 1.0, "skin.png")
    (tmp_path / "cars" / "skin.png").write_bytes(fast_png(quarters()))
    with zipfile.ZipFile(tmp_path / "cars.zip", "w") as archive:
        for path in sorted((tmp_path / "cars").iterdir()):
            archive.write(path, f"cars/{path.name}")
    render(tmp_path / "cars", tmp_path / "a")
    render(tmp_path / "cars.zip", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert render(tmp_path / "cars.zip", tmp_path / "b").up_to_date
    assert files(tmp_path / "a") == files(tmp_path / "b") and not (tmp_path / "b/.partial").exists()


def test_a_hostile_zip_leaves_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "cars.zip", "w") as archive:
        archive.writestr("good.obj", TRIANGLE.format(1))
        archive.writestr("../evil.obj", TRIANGLE.format(1))
    with pytest.raises(InputError, match=r"'../evil.obj' would lie outside"):
        render(tmp_path / "cars.zip", tmp_path / "out")
    assert files(tmp_path).keys() == {"cars.zip"}


def test_shapenet_paths():
    assert shapenet_names(Path("any"), "02958343/1ab/model.obj") == ("1ab", "02958343")
    assert shapenet_names(Path("any"), "v2/02958343/1ab/models/model_normalized.obj") == ("1ab", "02958343")
    assert shapenet_names(Path("data/02958343"), "1ab/model.obj") == ("1ab", "02958343")
    assert shapenet_names(Path("data/02958343"), "1ab/models/model_normalized.obj") == ("1ab", "02958343")
    assert shapenet_names(Path("any"), "1ab/models/model_normalized.obj") == ("1ab", None)
    for other in (
        "1ab/model.obj",
        "model.obj",
        "02958343/model.obj",
        "02958343/1ab/x.obj",
        "model_normalized.obj",
    ):
        assert shapenet_names(Path("any"), other) is None


@pytest.mark.parametrize("version", [1, 2])
def test_shapenet_folders(tmp_path, version):
    for number, (synset, name) in enumerate([("02958343", "1a"), ("02958343", "2b"), ("03001627", "1a")]):
        folder = tmp_path / "core" / synset / name
        if version == 1:
            obj(folder / "model.obj", number + 1.0, "./images/t.jpg")
        else:
            obj(folder / "models" / "model_normalized.obj", number + 1.0, "../images/t.jpg")
        (folder / "images").mkdir()
        (folder / "images" / "t.jpg").write_bytes(fast_png(quarters()))
    (tmp_path / "train.txt").write_text("2b\n02958343-1a\n")
    (tmp_path / "val.txt").write_text("03001627-1a\n")
    render(tmp_path / "core", tmp_path / "out")
    # One id stands in two synsets: there the synset is part of it.
    manifest = read_manifest(tmp_path / "out")
    assert manifest.splits == {"train": ["02958343-1a", "2b"], "val": ["03001627-1a"]}
    table = ShardSource(tmp_path / "out").table
    assert dict(zip(table.shape_ids, table.labels, strict=True)) == {
        "02958343-1a": "02958343", "03001627-1a": "03001627", "2b": "02958343"
    }  # fmt: skip
    assert not (tmp_path / "out/notes.json").exists()
    (tmp_path / "core/02958343/2b/images/t.jpg").unlink()
    facts = inspect_meshes(find_meshes(tmp_path / "core"), tmp_path / "core")
    assert [len(fact.notes) for fact in facts.values()] == [0, 0, 1]
    render(tmp_path / "core/02958343", tmp_path / "cars")
    table = ShardSource(tmp_path / "cars").table
    assert table.shape_ids == ("1a", "2b") and set(table.labels) == {"02958343"}


def test_missing_files_are_noted_and_not_rejected(tmp_path, capsys):
    obj(tmp_path / "m/a.obj", 1.0, "gone.png")
    obj(tmp_path / "m/b.obj", 2.0)
    report = render(tmp_path / "m", tmp_path / "out")
    assert report.shapes == 2 and not report.rejected
    expected = {"a": ["the texture 'gone.png' of material 'a' is not there; its Kd is used"]}
    assert json.loads((tmp_path / "out/notes.json").read_text()) == expected
    assert "warning: files are missing for 1 shapes, such as 'a': the texture" in capsys.readouterr().err
    # The picture turns up: that shape is rendered again, and no note stays.
    (tmp_path / "m/gone.png").write_bytes(fast_png(quarters()))
    assert render(tmp_path / "m", tmp_path / "out").rendered == 1
    assert not (tmp_path / "out/notes.json").exists()


def test_hashing_reads_nothing_outside(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"1")
    (tmp_path / "m").mkdir()
    document = {"asset": {}, "buffers": [{"uri": "../secret.bin"}, {"uri": "%2e%2e/secret.bin"}]}
    (tmp_path / "m/a.gltf").write_text(json.dumps(document))
    (tmp_path / "m/b.ply").write_bytes(b"ply\ncomment TextureFile ../secret.bin\nend_header\n")
    obj(tmp_path / "m/c.obj", 1.0, str(tmp_path / "secret.bin"))
    before = inspect_meshes(find_meshes(tmp_path / "m"), tmp_path / "m")
    (tmp_path / "secret.bin").write_bytes(b"2")
    assert inspect_meshes(find_meshes(tmp_path / "m"), tmp_path / "m") == before


def test_labels_and_captions_stand_beside_the_cameras(tmp_path):
    for number, name in enumerate("abc"):
        obj(tmp_path / f"m/x/{name}.obj", number + 1.0)
    (tmp_path / "t.csv").write_text(
        'shape,label,caption\na,car,"red, fast"\nx/b.obj,bus,Stra\u00dfe\nghost,car,\n'
    )
    tables = {"label": tmp_path / "t.csv", "caption": tmp_path / "t.csv"}
    render(tmp_path / "m", tmp_path / "plain")
    log = tmp_path / "log"
    shutil.copytree(tmp_path / "plain", tmp_path / "out")
    report = render(tmp_path / "m", tmp_path / "out", log, tables=tables)
    # Words do not change pictures: nothing is rendered again.
    assert (report.rendered, log.exists()) == (0, False)
    texts = [(c["shape"], c.get("label"), c.get("caption")) for c in cameras(tmp_path / "out")[::2]]
    assert texts == [("x-a", "car", "red, fast"), ("x-b", "bus", "Stra\u00dfe"), ("x-c", None, None)]
    manifest = read_manifest(tmp_path / "out")
    assert manifest.shapes["x-a"].caption == "red, fast"
    assert ShardSource(tmp_path / "out").table.labels == ("car", "bus", "x")
    # The same from scratch, and back to the data set without words.
    render(tmp_path / "m", tmp_path / "fresh", tables=tables)
    assert files(tmp_path / "fresh") == files(tmp_path / "out")
    assert render(tmp_path / "m", tmp_path / "out", tables=tables).up_to_date
    render(tmp_path / "m", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def split_of(manifest) -> dict[str, str]:
    return {shape_id: name for name, ids in manifest.splits.items() for shape_id in ids}


def test_copies_and_groups_stay_in_one_split(tmp_path):
    for number in range(12):
        # Pairs of equal vertices in other colours; the file hashes differ.
        obj(tmp_path / f"m/s{number:02d}.obj", 1.0 + number // 2, f"{number}.png")
        (tmp_path / f"m/{number}.png").write_bytes(fast_png(np.full((2, 2, 3), number, np.uint8)))
    ball = sphere(1)
    save_mesh(ball, tmp_path / "m/ball1.glb")
    save_mesh(
        TexturedMesh(ball.vertices_V3, ball.faces_F3, ball.uvs_V2, ball.texture_HW3 // 2),
        tmp_path / "m/ball2.glb",
    )
    for seed in range(6):
        pixels = PixelSettings(views=1, resolution=16, supersample=1, seed=seed)
        options = {"pixels": pixels, "val_fraction": 0.4, "overwrite": True}
        render(tmp_path / "m", tmp_path / "out", **options)
        split = split_of(read_manifest(tmp_path / "out"))
        assert set(split.values()) == {"train", "val"} and split["ball1"] == split["ball2"]
        assert all(split[f"s{i:02d}"] == split[f"s{i + 1:02d}"] for i in range(0, 12, 2))
        (tmp_path / "g.json").write_text(
            '{"s00": "a", "s02": "a", "s04": "b", "ball1": "b", "s06": 1, "s11": 1}'
        )
        render(tmp_path / "m", tmp_path / "out", **options, tables={"group": tmp_path / "g.json"})
        split = split_of(read_manifest(tmp_path / "out"))
        for together in (
            ["s00", "s01", "s02", "s03"],
            ["s04", "s05", "ball1", "ball2"],
            ["s06", "s07", "s10", "s11"],
        ):
            assert len({split[name] for name in together}) == 1
    # Jobs of one data set see only their own meshes; the merge sees all.
    for index in range(3):
        options |= {"overwrite": False, "tables": {"group": tmp_path / "g.json"}}
        render(tmp_path / "m", tmp_path / "parts", **options, shard=Shard(index, 3))
    assert split_of(merge_parts(tmp_path / "parts")) == split


def test_a_new_group_file_changes_only_the_splits(tmp_path):
    for number in range(6):
        obj(tmp_path / f"m/{number}.obj", 1.0 + number)
    render(tmp_path / "m", tmp_path / "out", val_fraction=0.5)
    before = files(tmp_path / "out/shards")
    (tmp_path / "g.csv").write_text("shape,group\n0,a\n1,a\n2,a\n3,a\n4,a\n")
    assert render(
        tmp_path / "m", tmp_path / "out", val_fraction=0.5, tables={"group": tmp_path / "g.csv"}
    ).up_to_date
    assert files(tmp_path / "out/shards") == before
    assert sorted(map(len, read_manifest(tmp_path / "out").splits.values())) == [1, 5]


def test_written_splits_are_read_again(tmp_path):
    for number in range(8):
        obj(tmp_path / f"m/sub/{number}.obj", 1.0 + number)
    render(tmp_path / "m", tmp_path / "a", val_fraction=0.3)
    lists = {path.name: path.read_text().split() for path in (tmp_path / "a/splits").iterdir()}
    splits = read_manifest(tmp_path / "a").splits
    assert lists == {f"{name}.txt": ids for name, ids in splits.items()}
    render(tmp_path / "m", tmp_path / "b", splits=tmp_path / "a/splits", val_fraction=0.9)
    assert read_manifest(tmp_path / "b").splits == splits


def test_torn_copies_in_split_files_are_noted(tmp_path, capsys):
    for name in "abc":
        obj(tmp_path / f"m/{name}.obj", 1.0 + (name == "c"))
    (tmp_path / "train.txt").write_text("a\nc\n")
    (tmp_path / "val.txt").write_text("b\n")
    render(tmp_path / "m", tmp_path / "out")
    assert "1 groups of equal shapes are in two splits, such as 'a' and 'b'" in capsys.readouterr().err
    assert read_manifest(tmp_path / "out").splits == {"train": ["a", "c"], "val": ["b"]}


@pytest.mark.parametrize("up", AXES)
def test_axes(up):
    def vector(axis):
        return np.array([axis.endswith(letter) for letter in "xyz"]) * (-1.0 if axis[0] == "-" else 1.0)

    for front in (*(axis for axis in AXES if axis[-1] != up[-1]), None):
        axes = Axes(up, front)
        rotation = axes.rotation_33
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        np.testing.assert_array_equal(rotation @ vector(up), [0, 1, 0])
        if front is not None:
            np.testing.assert_array_equal(rotation @ vector(front), [0, 0, 1])
    with pytest.raises(InputError, match="on one line"):
        Axes(up, up)
    assert Axes("z").describe() == ["z", "-y"] and Axes().usual and not Axes("z").usual
    with pytest.raises(InputError, match="--up must be one of"):
        Axes("w")


def test_axes_and_scales_are_recorded_and_decide_the_pictures(tmp_path):
    obj(tmp_path / "m/cars/a.obj", 1.0)
    obj(tmp_path / "m/planes/b.obj", 2.0)
    (tmp_path / "m/turned").mkdir()
    (tmp_path / "s.csv").write_text("label,scale\ncars,0.5\n")
    render(tmp_path / "m", tmp_path / "out")
    log = tmp_path / "log"
    report = render(tmp_path / "m", tmp_path / "out", log, scales=read_scales(tmp_path / "s.csv"))
    # Only the cars have another size now.
    assert (report.rendered, report.reused, log.read_text().count("render")) == (1, 1, 1)
    assert read_manifest(tmp_path / "out").settings["scales"] == {"cars": 0.5}
    pixels = PixelSettings(views=2, resolution=16, supersample=1, axes=Axes("z"))
    assert render(tmp_path / "m", tmp_path / "out", pixels=pixels).rendered == 2
    assert read_manifest(tmp_path / "out").settings["axes"] == ["z", "-y"]
    assert "axes" not in PIXELS.describe()
    with pytest.raises(InputError, match="scale of 'cars'"):
        RenderOptions(tmp_path, tmp_path, scales={"cars": 1.5})


def test_faces_turned_inside_out_look_the_same():
    ball = normalize(sphere(3))
    flipped = TexturedMesh(ball.vertices_V3, ball.faces_F3[:, ::-1].copy(), ball.uvs_V2, ball.texture_HW3)
    renderer = MeshRenderer(make_rasterizer(torch.device("cpu")), 48, 2, PIXELS.lighting)
    pictures = [renderer.render(mesh, turntable(3)).astype(int) for mesh in (ball, flipped)]
    assert (pictures[0][..., 3] > 0).mean() > 0.2
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_tables(tmp_path):
    def table(name: str, text: str, column: str = "label") -> dict[str, str]:
        (tmp_path / name).write_text(text)
        return read_table(tmp_path / name, column)

    assert table("a.csv", "id,kind\na,x\n\nb,y\n") == {"a": "x", "b": "y"}
    assert table("a.csv", "\ufeffshape,caption,label\na,one,x\n") == {"a": "x"}
    assert table("a.json", '{"a": "x", "b": {"label": 3, "caption": "c"}, "d": {"caption": "e"}}') == {
        "a": "x",
        "b": "3",
    }
    for name, text, reason in (
        ("a.csv", "", "head line"),
        ("a.csv", "shape,label\na\n", "row 2 has 1 columns"),
        ("a.csv", "shape,label\na,x\na,y\n", "two entries of label for 'a'"),
        ("a.csv", "shape,label\n", "says no label"),
        ("a.json", "[1]", "must be an object"),
        ("a.json", '{"a": 1, "a": 2}', "twice"),
        ("a.json", '{"a": [1]}', "is list"),
        ("a.json", "{", "no JSON"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            table(name, text)
        assert "a." in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "gone.csv", "label")
    for path in ("m/cars/a.obj", "m/cars/b.obj", "m/c.obj"):
        obj(tmp_path / path)
    found, unknown = match_table(
        {"cars": "1", "b": "2", "c.obj": "3", "ghost": "4"}, find_meshes(tmp_path / "m")
    )
    assert found == {"cars-a": "1", "cars-b": "2", "c": "3"} and unknown == ["ghost"]


def test_the_command_line(tmp_path, capsys):
    obj(tmp_path / "m/a.obj", 1.0)
    obj(tmp_path / "m/b.obj", 2.0)
    (tmp_path / "t.json").write_text(
        '{"a": {"caption": "one", "label": "l", "scale": 0.3}, "l": {"scale": 0.4}}'
    )
    names = [f"--{name}={tmp_path / 't.json'}" for name in ("captions", "labels", "scales")]
    sizes = ["--views=1", "--resolution=16", "--supersample=1", "--workers=1"]
    assert main([str(tmp_path / "m"), str(tmp_path / "out"), *sizes, *names, "--up=z", "--front=x"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.settings["axes"] == ["z", "x"] and manifest.settings["scales"] == {"a": 0.3, "l": 0.4}
    assert manifest.shapes["a"].texts == {"label": "l", "caption": "one"}
    assert os.listdir(tmp_path / "out/splits")
