import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from get3d_model.data.manifest import read_manifest, write_manifest
from get3d_model.data.shards import assemble_shards, encode_piece, scan_tar, shapes_per_shard
from get3d_model.errors import InputError
from tests.get3d_model.data.synthetic import SHAPES, VIEWS, make_shapes, make_views, write_shard_dataset


def _names(path):
    with tarfile.open(path) as archive:
        return archive.getnames()


def test_tar_content_as_python_tarfile_sees_it(shards):
    shapes = make_shapes()
    seen = {}
    for path in sorted((shards / "shards").iterdir()):
        with tarfile.open(path) as archive:
            for info in archive:
                assert (info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644)
                seen[info.name] = archive.extractfile(info).read()
        assert path.stat().st_size % tarfile.RECORDSIZE == 0
    expected = {
        f"{shape}_{view:03d}.{ext}" for shape in SHAPES for view in range(VIEWS) for ext in ("png", "json")
    }
    assert set(seen) == expected
    for shape_id, views in shapes.items():
        for number, view in enumerate(views):
            picture = Image.open(io.BytesIO(seen[f"{shape_id}_{number:03d}.png"]))
            assert picture.mode == "RGBA"
            np.testing.assert_array_equal(np.asarray(picture), view.rgba_HW4)
            assert json.loads(seen[f"{shape_id}_{number:03d}.json"]) == {
                "shape": shape_id,
                "view": number,
                "rotation_deg": view.rotation_deg,
                "elevation_deg": view.elevation_deg,
                "radius": 1.2,
                "fov_deg": 49.13,
            }


def test_manifest_describes_the_files(shards):
    manifest = read_manifest(shards)
    assert [entry.file for entry in manifest.shards] == [f"shards/{i:06d}.tar" for i in range(3)]
    assert [shape for entry in manifest.shards for shape in entry.shapes] == sorted(SHAPES)
    for entry in [*manifest.shards, manifest.index]:
        content = (shards / entry.file).read_bytes()
        assert len(content) == entry.bytes
        assert hashlib.sha256(content).hexdigest() == entry.sha256
    assert [entry.samples for entry in manifest.shards] == [2 * VIEWS, 2 * VIEWS, VIEWS]
    # All files of a sample stand together and no shape is in two shards: what WebDataset relies on.
    for entry in manifest.shards:
        names = _names(shards / entry.file)
        assert [name.rpartition(".")[0] for name in names[::2]] == [
            name.rpartition(".")[0] for name in names[1::2]
        ]


def test_same_input_gives_same_bytes(tmp_path):
    shapes = make_shapes()
    first = write_shard_dataset(tmp_path / "a", shapes)
    second = write_shard_dataset(tmp_path / "b", dict(reversed(shapes.items())))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 5
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_interrupted_assembly_continues_behind_the_finished_shards(tmp_path):
    shapes = make_shapes()
    reference = write_shard_dataset(tmp_path / "reference", shapes)
    pieces = {shape_id: encode_piece(shape_id, views, 1.2, 49.13) for shape_id, views in shapes.items()}

    def drop(ids):
        for shape_id in ids:
            pieces.pop(shape_id, None)

    def stop_after_the_first(ids):
        drop(ids)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble_shards(tmp_path / "b", SHAPES, pieces.__getitem__, 2, stop_after_the_first)
    assert len(pieces) == 3
    entries, _ = assemble_shards(tmp_path / "b", SHAPES, pieces.__getitem__, 2, drop)
    assert not pieces
    assert entries == read_manifest(reference).shards


def test_a_failing_writer_leaves_no_shard(tmp_path):
    def fail(shape_id):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        assemble_shards(tmp_path, SHAPES, fail, 2)
    assert list((tmp_path / "shards").iterdir()) == []


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "shards/../../x.tar"])
def test_a_manifest_names_nothing_outside(tmp_path, name):
    root = write_shard_dataset(tmp_path, make_shapes())
    manifest = read_manifest(root)
    outside = [replace(manifest.shards[0], file=name), *manifest.shards[1:]]
    for changed in (replace(manifest, shards=outside), replace(manifest, splits={name: SHAPES})):
        write_manifest(root, changed)
        with pytest.raises(InputError, match=r"is damaged \('.*' lies outside of the data set\)"):
            read_manifest(root)


def test_names_too_long_for_a_plain_header(tmp_path):
    shape_id = "x" * 180
    root = write_shard_dataset(tmp_path, {shape_id: make_views(shape_id)}, splits={"train": [shape_id]})
    assert _names(root / "shards/000000.tar")[0] == f"{shape_id}_000.png"
    assert [member.shape_id for member in scan_tar(root / "shards/000000.tar")] == [shape_id] * VIEWS


@pytest.mark.parametrize("shape_id", ["", "a.b", "a/b", "a\nb"])
def test_shape_ids_that_webdataset_would_misread(shape_id):
    with pytest.raises(ValueError, match="shape id"):
        encode_piece(shape_id, make_views("x"), 1.2, 49.13)


def _tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


CAMERA = json.dumps({"shape": "a", "view": 0, "rotation_deg": 1.0, "elevation_deg": 2.0}).encode()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a_000.png": b"x"}, r"sample a_000 has no camera"),
        ({"a_000.json": CAMERA}, r"sample a_000 has no image"),
        ({"a_000.png": b"x", "a_000.json": b"{"}, "is damaged"),
        ({"a_000.png": b"x", "a_000.json": b"{}"}, "camera file is damaged"),
    ],
)
def test_damaged_tars(tmp_path, files, reason):
    path = _tar(tmp_path / "t.tar", files)
    with pytest.raises(InputError, match=reason) as caught:
        scan_tar(path)
    assert str(path) in str(caught.value)
    assert "render the data set again" in str(caught.value)


@pytest.mark.parametrize("views", [1, 8, 24, 100])
def test_600_000_views_are_hundreds_of_files(views):
    shapes = shapes_per_shard(views, 1024)
    assert 100 <= 600_000 / views / shapes <= 999
    # Even where every pixel costs four bytes, which no PNG exceeds by more than its header, a tar stays usable.
    assert shapes * views * 4 * 1024**2 < 5e9


def test_tars_hold_at_least_one_shape_and_at_most_ten_thousand_images():
    assert shapes_per_shard(1000, 8192) == 1
    assert shapes_per_shard(24, 64) == 416
    assert shapes_per_shard(1, 8) == 10_000
