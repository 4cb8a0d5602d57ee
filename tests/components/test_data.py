"""`get3d data`: what it says of sound and of damaged data sets, and that converting loses nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.render.job import render_dataset
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.camera_settings import CameraConfig
from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.manifest import read_manifest, write_manifest
from get3d_model.data.parts import Shard
from get3d_model.data.preflight import preflight
from get3d_model.errors import InputError
from pipelines.cli import main
from tests.components.render_fakes import make_fake_renderer
from tests.components.render_helpers import render_in_process, save_fan
from tests.get3d_model.data.synthetic import (
    SHAPES,
    make_shapes,
    make_views,
    write_published_dataset,
    write_shard_dataset,
)

PIXELS = PixelSettings(views=2, resolution=16, supersample=1)


@pytest.fixture
def in_process(monkeypatch):
    yield from render_in_process(monkeypatch)


@pytest.fixture
def shards(tmp_path) -> Path:
    return write_shard_dataset(tmp_path / "set", make_shapes())


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _problems(capsys, path: Path, *options: str) -> list[str]:
    """The lines that verify writes; the last one is the verdict."""
    capsys.readouterr()
    code = main(["data", "verify", str(path), *options])
    lines = capsys.readouterr().err.splitlines()
    assert code == (2 if lines else 0)
    return lines


def test_sound_data_sets(shards, tmp_path, capsys):
    assert _problems(capsys, shards) == []
    published = write_published_dataset(tmp_path / "published", make_shapes())
    assert _problems(capsys, published) == []
    write_published_dataset(tmp_path / "published", {"other": make_shapes()["cube"]}, "more")
    assert _problems(capsys, published) == []
    assert main(["data", "verify", str(tmp_path / "absent")]) == 2


def test_an_address_is_not_taken_for_a_folder(capsys):
    for action in ("stats", "verify"):
        with pytest.raises(SystemExit) as caught:
            main(["data", action, "s3://bucket/set"])
        assert caught.value.code == 2
        assert "s3://bucket/set is an address; copy it to a folder first" in capsys.readouterr().err


def test_figures(shards, capsys):
    assert main(["data", "stats", str(shards), "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    angles = np.array(
        [[view.rotation_deg, view.elevation_deg] for views in make_shapes().values() for view in views]
    )
    assert (stats["shapes"], stats["images"], stats["views_per_shape"]) == (5, 15, [3, 3])
    assert stats["splits"] == {"train": 9, "val": 6}
    assert stats["classes"] == {"shapes": 5}
    for name, column in (("rotation_deg", 0), ("elevation_deg", 1)):
        expected = [angles[:, column].min(), angles[:, column].mean(), angles[:, column].max()]
        np.testing.assert_allclose(stats[name], expected)
    sizes = [path.stat().st_size for path in (shards / "shards").iterdir()]
    assert stats["shards"] == 3
    assert stats["shard_bytes"] == [min(sizes), round(sum(sizes) / 3), max(sizes)]
    assert main(["data", "stats", str(shards)]) == 0
    assert "15 of 16 px, 3 of a shape" in capsys.readouterr().out


def _replace_in_tar(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


def _accept_hash(root: Path, number: int = 0) -> None:
    """Makes the manifest agree with a tar that was changed, so that what is inside has to be looked at."""
    from get3d_model.data.shards import ShardEntry, sha256_file

    manifest = read_manifest(root)
    shards = list(manifest.shards)
    path = root / shards[number].file
    shards[number] = ShardEntry(
        shards[number].file,
        path.stat().st_size,
        sha256_file(path),
        shards[number].samples,
        shards[number].shapes,
    )
    write_manifest(root, replace(manifest, shards=shards))


def test_every_kind_of_damage_is_one_line(shards, tmp_path, capsys):
    def damaged(name: str) -> Path:
        shutil.copytree(shards, tmp_path / name)
        return tmp_path / name

    def only(root: Path, reason: str, count: int = 1) -> None:
        lines = _problems(capsys, root)
        assert len(lines) == count + 1, lines
        assert any(reason in line for line in lines[:-1]), lines
        assert f"has {count} problem" in lines[-1]

    first = "shards/000000.tar"
    root = damaged("hash")
    _replace_in_tar(root / first, b"IDAT", b"IDAX")
    only(root, "does not have the sha256", 3)  # and its two shapes lack their views
    root = damaged("image")
    _replace_in_tar(root / first, b"IDAT", b"IDAX")
    _accept_hash(root)
    only(root, "cube_000.png: the image cannot be decoded")
    root = damaged("camera")
    digits = str(make_shapes()["cube"][0].rotation_deg).encode()
    _replace_in_tar(root / first, digits, b"NaN" + b" " * (len(digits) - 3))
    _accept_hash(root)
    only(root, "cube_000 has rotation nan", 2)  # and the index says something else
    root = damaged("cut")
    (root / first).write_bytes((root / first).read_bytes()[:-512])
    only(root, "the manifest says", 3)
    root = damaged("gone")
    (root / first).unlink()
    only(root, "is missing, but the manifest lists it", 3)
    root = damaged("extra")
    shutil.copy(root / first, root / "shards/000007.tar")
    only(root, "000007.tar is not in the manifest")
    root = damaged("index")
    index_N = np.load(root / "index.npy")
    index_N["offset"][0] += 512
    np.save(root / "index.npy", index_N)
    only(root, "is not the index the manifest describes")
    root = damaged("size")
    write_manifest(root, replace(read_manifest(root), resolution=32))
    only(root, "is 16x16, the data set is 32x32", 15)
    for splits, reason, count in (
        ({"train": SHAPES, "val": SHAPES[:1]}, "'cube' is in split 'train' and again in 'val'", 1),
        ({"train": SHAPES[1:]}, "'cube' is in no split", 1),
        ({"train": [*SHAPES, "ghost"]}, "lists 'ghost', which has no images", 1),
    ):
        write_manifest(shards, replace(read_manifest(shards), splits=splits))
        only(shards, reason, count)


def test_damage_in_the_published_layout_and_the_limit(tmp_path, capsys):
    root = write_published_dataset(tmp_path / "published", make_shapes())
    for path in sorted(root.glob("img/things/*/001.png")):
        Image.new("RGB", (16, 16)).save(path)
    np.save(root / "camera/things/cube/elevation.npy", [1.0, np.inf, 2.0])
    lines = _problems(capsys, root, "--limit", "2")
    assert len(lines) == 3
    assert "elevation inf" in lines[0]
    assert "the image is RGB, not RGBA" in lines[1]
    assert "has 6 problems, of which 2 are listed" in lines[2]
    assert main(["data", "verify", str(root), "--limit", "0"]) == 2
    for threads in ("0", "-1"):
        assert main(["data", "verify", str(root), "--threads", threads]) == 2
        assert f"--threads must be at least 1, not {threads}" in capsys.readouterr().err
    (root / "img/things/cube/002.png").unlink()
    assert main(["data", "verify", str(root)]) == 2


def test_converting_gives_what_rendering_would_have(tmp_path, in_process, capsys):
    for number in range(5):
        save_fan(tmp_path / f"meshes/fan{number}.glb", number)
    (tmp_path / "meshes/bad.glb").write_bytes(b"glTF")
    (tmp_path / "captions.csv").write_text("name,caption\nfan1,a fan\nfan3,another fan\n")
    for layout in ("shards", "published"):
        options = {
            "tables": {"caption": tmp_path / "captions.csv"},
            "shapes_per_shard": 2,
            "layout": layout,
            "category": "fans",
        }
        options = RenderOptions(tmp_path / "meshes", tmp_path / layout, PIXELS, **options)
        render_dataset(options, make_fake_renderer, "fake-1")
    to_published = ["data", "convert", str(tmp_path / "shards"), str(tmp_path / "a"), "--to", "published"]
    assert main([*to_published, "--category", "fans"]) == 0
    assert _files(tmp_path / "a") == _files(tmp_path / "published")
    to_shards = ["data", "convert", str(tmp_path / "published"), str(tmp_path / "b"), "--to", "shards"]
    assert main([*to_shards, "--shapes-per-shard", "2"]) == 0
    assert _files(tmp_path / "b") == _files(tmp_path / "shards")
    capsys.readouterr()
    for line in (to_shards, to_published):  # folders that hold something
        assert main(line) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["data", "convert", str(tmp_path / "a"), str(tmp_path / "c"), "--to", "published"]) == 2
    assert not (tmp_path / "c").exists()


def test_the_published_layout_keeps_groups_and_classes(tmp_path, in_process, capsys):
    """Near-duplicates are weighted and shapes have their classes, whichever layout they were rendered in."""
    for number in range(6):
        save_fan(tmp_path / f"meshes/fan{number}.glb", number)
    for kind, texts in (("label", "xxyyyx"), ("group", "aaaabc")):
        lines = (f"fan{number},{text}\n" for number, text in enumerate(texts))
        (tmp_path / f"{kind}.csv").write_text(f"name,{kind}\n" + "".join(lines))
    tables = {kind: tmp_path / f"{kind}.csv" for kind in ("label", "group")}
    for layout in ("shards", "published"):
        options = RenderOptions(
            tmp_path / "meshes", tmp_path / layout, PIXELS, layout=layout, tables=tables, val_fraction=0
        )
        render_dataset(options, make_fake_renderer, "fake-1")
    shards, published = (RenderedDataset(tmp_path / layout) for layout in ("shards", "published"))
    assert shards.class_names == published.class_names == ["x", "y"]
    np.testing.assert_array_equal(published.classes_N, shards.classes_N)
    np.testing.assert_allclose(published.weights_N(True), shards.weights_N(True))
    with pytest.raises(
        InputError, match=r"was rendered with a camera radius of 1\.2, the configuration has 2"
    ):
        preflight(tmp_path / "published", resolution=16, cameras=CameraConfig("chair", radius=2.0))
    views = PIXELS.views
    np.testing.assert_allclose(published.weights_N(True).reshape(6, views)[:, 0], [0.25] * 4 + [1, 1])


@pytest.mark.parametrize("layout", ["shards", "published"])
def test_damage_is_not_converted(shards, tmp_path, capsys, layout):
    path = shards / "shards/000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1  # in a picture
    path.write_bytes(content)
    assert main(["data", "convert", str(shards), str(tmp_path / "out"), "--to", layout]) == 2
    assert "000001.tar does not have the sha256 in the manifest" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("label", "options"),
    [("../../out", []), ("a/b", []), (".", []), ("car", ["--category", "../x"]), ("car", ["--category", ""])],
)
def test_a_class_that_no_folder_can_be_called(shards, tmp_path, capsys, label, options):
    manifest = read_manifest(shards)
    shapes = {key: replace(mesh, label=label) for key, mesh in manifest.shapes.items()}
    write_manifest(shards, replace(manifest, shapes=shapes))
    before = _files(tmp_path)
    line = ["data", "convert", str(shards), str(tmp_path / "deep/er"), "--to", "published", *options]
    assert main(line) == 2
    assert "cannot have a folder called" in capsys.readouterr().err
    assert _files(tmp_path) == before
    assert main([*line, "--category", "all"]) == 0
    assert RenderedDataset(tmp_path / "deep/er").class_names == [label]


def test_a_mixture_is_not_converted(tmp_path, capsys):
    for name, resolution in (("a", 32), ("b", 16)):
        write_shard_dataset(tmp_path / name, {name: make_views(name, resolution=resolution)})
    (tmp_path / "mix.yaml").write_text("sources: [{path: a}, {path: b}]")
    for layout in ("shards", "published"):
        assert main(["data", "convert", str(tmp_path / "mix.yaml"), str(tmp_path / "c"), "--to", layout]) == 2
        assert "is a mixture; convert its data sets" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_converting_loose_files_keeps_classes_splits_and_pixels(tmp_path, capsys):
    shapes = make_shapes()
    root = tmp_path / "published"
    write_published_dataset(root, {name: shapes[name] for name in SHAPES[:2]}, "boxes")
    write_published_dataset(root, {name: shapes[name] for name in SHAPES[2:]}, "round")
    (root / "train.txt").write_text("\n".join(SHAPES[:2]))
    (root / "val.txt").write_text("\n".join([*SHAPES[3:], "ghost"]))
    assert main(["data", "convert", str(root), str(tmp_path / "shards"), "--to", "shards"]) == 0
    assert _problems(capsys, tmp_path / "shards") == []
    manifest = read_manifest(tmp_path / "shards")
    assert manifest.splits == {"train": SHAPES[:3], "val": SHAPES[3:]}  # an unlisted shape goes to train
    assert (
        main(["data", "convert", str(tmp_path / "shards"), str(tmp_path / "back"), "--to", "published"]) == 0
    )
    back = _files(tmp_path / "back")
    assert {name: back[name] for name in _files(root) if name.startswith("img/")}.items() <= _files(
        root
    ).items()
    for a, b in (("shards", "published"), ("back", "published")):
        first, second = (
            RenderedDataset(tmp_path / name, None, category="*" if name == "published" else None)
            for name in (a, b)
        )
        assert first.class_names == second.class_names == ["boxes", "round"]
        np.testing.assert_array_equal(first.classes_N, second.classes_N)
        for x, y in zip(first, second, strict=True):
            assert (x.shape_id, x.view) == (y.shape_id, y.view)
            assert x.rgba_4HW.equal(y.rgba_4HW)
            assert x.angles_2.equal(y.angles_2)


def test_a_shape_that_no_tar_can_name(tmp_path, capsys):
    root = write_published_dataset(tmp_path / "published", {"a.b": make_shapes()["cube"]})
    assert main(["data", "convert", str(root), str(tmp_path / "out"), "--to", "shards"]) == 2
    assert "must be a file name without dots" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_a_shape_that_no_folder_can_be_called(tmp_path, in_process, capsys):
    save_fan(tmp_path / f"meshes/{'d' * 200}/{'ü' * 40}.glb")
    options = RenderOptions(tmp_path / "meshes", tmp_path / "set", PIXELS)
    with pytest.raises(InputError, match="longer than the 255 bytes of a name"):
        render_dataset(replace(options, layout="published"), make_fake_renderer, "fake-1")
    render_dataset(options, make_fake_renderer, "fake-1")
    assert _problems(capsys, tmp_path / "set") == []
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "published"]) == 2
    assert "longer than the 255 bytes of a name" in capsys.readouterr().err


def test_parts_meet_in_a_store(tmp_path, in_process, monkeypatch, capsys):
    for number in range(5):
        save_fan(tmp_path / f"meshes/fan{number}.glb", number)
    url = f"file://{tmp_path}/store"
    for index in range(2):  # each on a machine of its own
        own = tmp_path / f"machine{index}"
        render_dataset(
            RenderOptions(tmp_path / "meshes", own, PIXELS, shard=Shard(index, 2)),
            make_fake_renderer,
            "fake-1",
        )
        part = Shard(index, 2).folder
        assert main(["data", "push", str(own / part), f"{url}/{part}"]) == 0
    assert main(["data", "pull", url, str(tmp_path / "all")]) == 0
    assert main(["data", "merge", str(tmp_path / "all")]) == 0
    tars = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.tar")}
    assert main(["data", "push", str(tmp_path / "all"), url]) == 0
    assert len(tars) == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.tar")} == tars
    assert main(["data", "pull", url, str(tmp_path / "training")]) == 0
    assert _files(tmp_path / "training") == _files(tmp_path / "all")
    assert _problems(capsys, tmp_path / "training") == []
    assert main(["data", "pull", "nosuch://a", str(tmp_path / "x")]) == 2


def test_merge_on_the_command_line(tmp_path, in_process, capsys, monkeypatch):
    for number in range(5):
        save_fan(tmp_path / f"meshes/fan{number}.glb", number)
    for index in range(2):
        options = RenderOptions(tmp_path / "meshes", tmp_path / "out", PIXELS, shard=Shard(index, 2))
        render_dataset(options, make_fake_renderer, "fake-1")
    assert (
        main(["data", "merge", str(tmp_path / "out"), "--parts", str(tmp_path / "out" / Shard(0, 2).folder)])
        == 2
    )
    assert "--shard 1/2" in capsys.readouterr().err
    monkeypatch.setenv("GET3D_METRICS_DIR", str(tmp_path / "metrics"))
    assert main(["data", "merge", str(tmp_path / "out")]) == 0
    assert "10 images of 5 shapes" in capsys.readouterr().out
    # Those of all parts, in place of what the part that ended last had told.
    told = (tmp_path / "metrics" / "get3d_rows_render.prom").read_text()
    assert 'get3d_pipeline_accepted_rows{step="render"} 5.0' in told
    assert _problems(capsys, tmp_path / "out") == []
    assert main(["data", "stats", str(tmp_path / "out")]) == 0
    # A merged data set becomes a whole one of few files by way of the other layout.
    convert = ["data", "convert", str(tmp_path / "out"), str(tmp_path / "packed"), "--to", "shards"]
    assert main(convert) == 0
    assert _problems(capsys, tmp_path / "packed") == []
    assert len(list((tmp_path / "packed/shards").iterdir())) == 1
