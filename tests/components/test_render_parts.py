"""Rendering in parts by jobs that know nothing of each other, against one job that renders everything."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.render.job import render_dataset
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.data.dataset import RenderedDataset, open_source
from get3d_model.data.manifest import read_manifest, write_manifest
from get3d_model.data.parts import Shard, merge_parts
from get3d_model.data.preflight import preflight
from get3d_model.errors import InputError
from tests.components.render_fakes import make_fake_renderer
from tests.components.render_helpers import render_in_process, save_fan

PIXELS = PixelSettings(views=2, resolution=16, supersample=1)
COUNT = 3


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    yield from render_in_process(monkeypatch)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meshes") / "all"
    for number in range(11):
        save_fan(folder / f"class-{number % 2}" / f"shape{number:02d}.glb", number)
    (folder / "class-0/damaged.glb").write_bytes(b"glTF")
    save_fan(folder / "class-1/twin.glb", 3)  # of a shape in another part, and to stay with it in one split
    return folder


def _render(meshes: Path, out: Path, index: int = 0, count: int = 1, **options):
    options = {"pixels": PIXELS, "shapes_per_shard": 2, "shard": Shard(index, count), **options}
    return render_dataset(RenderOptions(meshes, out, **options), make_fake_renderer, "fake-1")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def parts(meshes, tmp_path) -> Path:
    for index in (2, 0, 1):
        _render(meshes, tmp_path / "parts", index, COUNT)
    return tmp_path / "parts"


def _assert_same_content(a: Path, b: Path) -> None:
    first, second = open_source(a), open_source(b)
    assert first.splits == second.splits
    assert first.table.shape_ids == second.table.shape_ids
    assert first.table.labels == second.table.labels
    for field in ("shape_N", "view_N", "rotation_deg_N", "elevation_deg_N"):
        np.testing.assert_array_equal(getattr(first.table, field), getattr(second.table, field))
    for index in range(len(first.table)):
        assert first.read_png(index) == second.read_png(index)
    for split in first.splits:
        for x, y in zip(RenderedDataset(a, split), RenderedDataset(b, split), strict=True):
            assert (x.shape_id, x.view) == (y.shape_id, y.view)
            assert x.rgba_4HW.equal(y.rgba_4HW)


@pytest.mark.parametrize("split_files", [False, True], ids=["split by hash", "split files"])
def test_merged_parts_are_what_one_job_renders(meshes, tmp_path, split_files):
    options = {}
    if split_files:
        (tmp_path / "train.txt").write_text("".join(f"shape{number:02d}\n" for number in range(8)))
        (tmp_path / "val.txt").write_text("shape08\nshape09\nshape10\n")
        options["splits"] = tmp_path
    for index in (2, 0, 1):
        _render(meshes, tmp_path / "parts", index, COUNT, **options)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    before = _files(parts)
    manifest = merge_parts(parts)
    after = _files(parts)
    written = {"manifest.json", "index.npy", "rejected.json", "splits/train.txt", "splits/val.txt"}
    assert after.keys() - before.keys() == written
    assert before.items() <= after.items()  # no image, and nothing else of a part, was touched
    _render(meshes, whole, **options)
    _assert_same_content(whole, parts)
    expected = read_manifest(whole)
    assert replace(manifest, shards=[], index=None) == replace(expected, shards=[], index=None)
    for name in ("rejected.json", "splits/train.txt", "splits/val.txt"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    copies = [
        split for split, ids in manifest.splits.items() if {"class-1-twin", "class-1-shape03"} & set(ids)
    ]
    assert split_files or len(copies) == 1
    assert Shard(1, COUNT).owns("class-1-twin") != Shard(1, COUNT).owns("class-1-shape03")
    summary = preflight(parts, resolution=16, splits=("train", "val"), full=True)
    assert summary.images == 24
    # The index may be lost, as with any data set; merging again gives the same bytes.
    (parts / "index.npy").unlink()
    _assert_same_content(whole, parts)
    merge_parts(parts, [parts / f"part-{index:05d}-of-00003" for index in (1, 2, 0)])
    assert _files(parts) == after


def test_every_shape_is_in_one_part_and_stays_there():
    ids = [f"shape{number}" for number in range(4000)]
    shards = [Shard(index, 16) for index in range(16)]
    owners = {shape_id: [shard.index for shard in shards if shard.owns(shape_id)] for shape_id in ids}
    assert all(len(found) == 1 for found in owners.values())
    sizes = Counter(found[0] for found in owners.values())
    assert len(sizes) == 16
    assert max(abs(size - 250) for size in sizes.values()) < 4 * 250**0.5
    # Golden: another owner would have every job render its shapes anew.
    assert [owners[f"shape{number}"][0] for number in range(6)] == GOLDEN
    assert all(Shard().owns(shape_id) for shape_id in ids)


GOLDEN = [5, 6, 0, 11, 0, 12]


@pytest.mark.parametrize("text", ["", "1", "1/0", "3/3", "-1/3", "1/3/4", "a/b"])
def test_shards_that_do_not_exist(text):
    with pytest.raises(InputError, match=r"shard"):
        Shard.parse(text)
    assert Shard.parse("2/3") == Shard(2, 3)


def test_more_parts_than_shapes(meshes, tmp_path):
    for index in range(30):
        _render(meshes, tmp_path / "parts", index, 30)
    merge_parts(tmp_path / "parts")
    _render(meshes, tmp_path / "whole")
    _assert_same_content(tmp_path / "whole", tmp_path / "parts")


def test_a_new_mesh_costs_one_part_and_the_merged_manifest_waits(parts, meshes, tmp_path):
    shutil.copytree(meshes, tmp_path / "more")
    merge_parts(parts)
    save_fan(tmp_path / "more/class-0/new.glb", 20)
    owner = next(index for index in range(COUNT) if Shard(index, COUNT).owns("class-0-new"))
    assert _render(tmp_path / "more", parts, owner, COUNT).rendered == 1
    with pytest.raises(InputError, match="run `get3d data merge"):
        open_source(parts)
    with pytest.raises(InputError, match="different lists of meshes"):
        merge_parts(parts)
    for index in range(COUNT):
        assert _render(tmp_path / "more", parts, index, COUNT).rendered == 0
    merge_parts(parts)
    _render(tmp_path / "more", tmp_path / "whole")
    _assert_same_content(tmp_path / "whole", parts)


def test_what_cannot_be_merged(parts, meshes, tmp_path):
    def fails(match: str, folders=None) -> None:
        with pytest.raises(InputError, match=match) as caught:
            merge_parts(parts, folders)
        assert "\n" not in str(caught.value)
        assert not (parts / "manifest.json").exists()

    first, second, third = sorted(parts.iterdir())
    fails("lacks 1 of 3 parts: .* --shard 1/3", [first, third])
    fails("is not below", [first, second, tmp_path])
    _render(meshes, parts, 0, 2)
    fails("parts of 2 and of 3")
    shutil.rmtree(parts / "part-00000-of-00002")
    shutil.copytree(second, parts / "part-00009-of-00003")
    fails("are both part 1")
    shutil.rmtree(parts / "part-00009-of-00003")
    shutil.copytree(third, tmp_path / "kept")
    for changes, reason in (
        ({"pixels": replace(PIXELS, seed=1)}, r"differ in seed, split rule \(seed: 0 and 1\)"),
        ({"shapes_per_shard": 3}, "differ in shapes_per_shard"),
        ({"val_fraction": 0.5}, "differ in split rule"),
    ):
        _render(meshes, parts, 2, COUNT, **changes)
        fails(reason)
    shutil.rmtree(third)
    shutil.copytree(tmp_path / "kept", third)
    (third / "manifest.json").unlink()
    fails("is not finished")
    shutil.rmtree(third)
    shutil.copytree(tmp_path / "kept", third)
    write_manifest(third, replace(read_manifest(third), part=None))
    fails("no part of one")
    shutil.rmtree(third)
    shutil.copytree(tmp_path / "kept", third)
    next(third.glob("shards/*.tar")).unlink()
    fails("is missing, but the manifest lists it")
    with pytest.raises(InputError, match="holds no part"):
        merge_parts(tmp_path / "kept/shards")


def test_parts_and_whole_data_sets_are_not_mixed(parts, meshes, tmp_path):
    with pytest.raises(InputError, match="render with --shard"):
        _render(meshes, parts)
    _render(meshes, tmp_path / "whole")
    with pytest.raises(InputError, match="which is no part"):
        _render(meshes, tmp_path / "whole", 0, 2)
    with pytest.raises(InputError, match="rendered without --shard"):
        merge_parts(tmp_path / "whole")
    with pytest.raises(InputError, match="get3d data convert"):
        _render(meshes, tmp_path / "p", 0, 2, layout="both")


def test_a_data_set_of_damaged_meshes_only(tmp_path):
    (tmp_path / "bad").mkdir()
    for number in range(4):
        (tmp_path / f"bad/{number}.glb").write_bytes(b"")
    for index in range(2):
        _render(tmp_path / "bad", tmp_path / "out", index, 2)
    assert json.loads((tmp_path / "out" / Shard(0, 2).folder / "rejected.json").read_text())
    with pytest.raises(
        InputError, match=r"no shape at all; of 4 meshes .* the first is .*\d\.glb: is too short"
    ):
        merge_parts(tmp_path / "out")


def test_merging_keeps_the_notes_of_the_parts(meshes, tmp_path):
    folder = tmp_path / "meshes"
    folder.mkdir()
    for number in range(6):
        # A material library that is not there costs the colour and is told.
        (folder / f"m{number}.obj").write_text(
            "mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n"
            if number % 2
            else "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
        )
    for index in range(COUNT):
        _render(folder, tmp_path / "parts", index, COUNT)
    merge_parts(tmp_path / "parts")
    _render(folder, tmp_path / "whole")
    notes = json.loads((tmp_path / "parts/notes.json").read_text())
    assert sorted(notes) == ["m1", "m3", "m5"]
    assert (tmp_path / "parts/notes.json").read_bytes() == (tmp_path / "whole/notes.json").read_bytes()
    # Another merge, after the files were mended, takes them away again.
    for path in folder.glob("*.obj"):
        path.write_text(path.read_text().replace("mtllib gone.mtl\nv 0", "v 0"))
    for index in range(COUNT):
        _render(folder, tmp_path / "parts", index, COUNT)
    merge_parts(tmp_path / "parts")
    assert not (tmp_path / "parts/notes.json").exists()
