import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from get3d_model.camera_settings import CameraConfig
from get3d_model.data import preflight as preflight_module
from get3d_model.data.base import View
from get3d_model.data.manifest import read_manifest, write_manifest
from get3d_model.data.preflight import preflight
from get3d_model.data.shards import INDEX_NAME
from get3d_model.errors import InputError
from tests.get3d_model.data.synthetic import (
    RESOLUTION,
    SHAPES,
    SPLITS,
    VIEWS,
    make_shapes,
    write_published_dataset,
    write_shard_dataset,
)


def _fails(data_dir, *patterns, **options):
    """Preflight must fail with one line that matches every pattern."""
    with pytest.raises(InputError) as caught:
        preflight(data_dir, **{"resolution": RESOLUTION, **options})
    message = str(caught.value)
    assert "\n" not in message
    for pattern in patterns:
        assert re.search(pattern, message), message


def test_a_good_shard_data_set(shards):
    summary = preflight(shards, resolution=RESOLUTION, splits=("train", "val"))
    assert (summary.layout, summary.shapes, summary.images) == ("shards", len(SHAPES), len(SHAPES) * VIEWS)
    assert summary.split_shapes == {"train": 3, "val": 2}
    assert summary.split_images == {"train": 3 * VIEWS, "val": 2 * VIEWS}
    assert summary.decoded == summary.images
    assert not summary.hashed
    assert summary.warnings == ()
    views = [view for shape in make_shapes().values() for view in shape]
    elevations = [view.elevation_deg for view in views]
    assert summary.elevation_range_deg == (min(elevations), max(elevations))
    coverage = np.mean([(view.rgba_HW4[..., 3] > 0).mean() for view in views])
    assert summary.mean_coverage == pytest.approx(coverage)
    assert "decoded all images" in summary.describe()
    assert preflight(shards, resolution=RESOLUTION, full=True).hashed


def test_a_good_published_data_set(published):
    summary = preflight(published, resolution=RESOLUTION)
    assert (summary.layout, summary.images, summary.split_shapes) == ("published", 15, {"train": 5})


def test_a_large_data_set_is_sampled_and_says_so(shards, monkeypatch):
    monkeypatch.setattr(preflight_module, "DECODE_ALL_UP_TO", 10)
    monkeypatch.setattr(preflight_module, "DECODE_SAMPLE", 4)
    summary = preflight(shards, resolution=RESOLUTION)
    assert summary.decoded == 4
    assert "a sample of 4 images" in summary.describe()
    assert preflight(shards, resolution=RESOLUTION, full=True).decoded == 15


def test_no_folder_and_no_layout(tmp_path):
    _fails(tmp_path / "absent", re.escape(str(tmp_path / "absent")), "does not exist", "get3d render")
    _fails(tmp_path, re.escape(str(tmp_path)), "neither", "point at the folder")


def test_wrong_resolution(shards):
    _fails(shards, re.escape(str(shards)), "16 pixels", "asks for 64", "--resolution 64", resolution=64)


def test_unknown_split(published):
    _fails(published, re.escape(str(published)), "no split 'val'", "split file", splits=("train", "val"))


def test_empty_split(tmp_path):
    root = write_shard_dataset(tmp_path, make_shapes(), splits={"train": [], "val": SHAPES})
    _fails(root, re.escape(str(root)), "split 'train'", "no images", "check the split file")


def test_split_file_with_none_of_the_shapes(published, tmp_path):
    (tmp_path / "t.txt").write_text("other\n")
    _fails(published, "split 'train'", "none of the 1 shapes", split_files={"train": tmp_path / "t.txt"})


def test_shape_in_two_splits(tmp_path):
    root = write_shard_dataset(tmp_path, make_shapes(), splits={"train": SHAPES, "val": ["cube"]})
    _fails(root, re.escape(str(root)), "'cube' is in two splits", "keep it in one")


def test_splits_that_do_not_match_the_data_warn(tmp_path):
    root = write_shard_dataset(
        tmp_path, make_shapes(), splits={"train": ["cube", "gone", "lost"], "val": ["torus"]}
    )
    first, second = preflight(root, resolution=RESOLUTION).warnings
    assert first == "2 of 3 shapes of split 'train' have no images: gone, lost"
    assert second.startswith("3 shapes are in no split and will not be used: ")


def test_missing_extra_and_cut_shards(shards):
    shard = shards / "shards/000001.tar"
    content = shard.read_bytes()
    shard.unlink()
    _fails(shards, re.escape(str(shard)), "missing", "fetch it or render")
    shard.write_bytes(content[:-512])
    _fails(shards, re.escape(str(shard)), "has .* bytes, the manifest says", "fetch it or render")
    shard.write_bytes(content)
    extra = shards / "shards/000007.tar"
    extra.write_bytes(content)
    _fails(shards, re.escape(str(extra)), "not in the manifest", "remove it")
    extra.unlink()
    preflight(shards, resolution=RESOLUTION)


def test_changed_content_of_the_same_size(shards):
    # A bit of the padding: names, sizes and images are as they were, so that only the hash shows it.
    shard = shards / "shards/000000.tar"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    preflight(shards, resolution=RESOLUTION)
    _fails(shards, re.escape(str(shard)), "sha256", "fetch it or render", full=True)


def test_damaged_image_in_a_shard(shards):
    shard = shards / "shards/000000.tar"
    content = bytearray(shard.read_bytes())
    start = content.index(b"IDAT")
    content[start + 20 : start + 40] = bytes(20)
    shard.write_bytes(content)
    _fails(shards, re.escape(f"{shard}:cube_000.png"), "cannot be decoded", "render the data set again")


def test_damaged_or_foreign_manifest(shards):
    path = shards / "manifest.json"
    good = json.loads(path.read_text())
    for content, reason in (
        ("{", "cannot be read"),
        ("[]", "format version None"),
        (json.dumps({**good, "format_version": 99}), "format version 99"),
        (json.dumps({key: value for key, value in good.items() if key != "shards"}), "damaged"),
        (json.dumps({**good, "surprise": 1}), "damaged"),
    ):
        path.write_text(content)
        _fails(shards, re.escape(str(path)), reason, "render the data set again")
    path.unlink()
    _fails(shards, re.escape(str(shards)), "rendering did not finish", "run the same `get3d render` again")


def test_changed_index(shards):
    path = shards / INDEX_NAME
    rows = np.load(path)
    rows["offset"][0] += 512
    np.save(path, rows)
    _fails(shards, re.escape(str(path)), "not the index", "delete it")


def test_image_without_camera_and_camera_without_image(published):
    rotation = published / "camera/things/cube/rotation.npy"
    content = rotation.read_bytes()
    rotation.unlink()
    _fails(published, re.escape(str(rotation)), "is missing", "restore it")
    rotation.write_bytes(content[:20])
    _fails(published, re.escape(str(rotation)), "cannot be read", "restore it")
    np.save(rotation, np.zeros(VIEWS - 1))
    _fails(published, re.escape(str(rotation)), "2 angles .* 3 images", "render this shape again")
    rotation.write_bytes(content)
    shutil.move(published / "img/things/cube", published / "away")
    _fails(published, re.escape(str(published / "camera/things/cube")), "no images", "remove it")


def test_missing_view_and_empty_shape_folder(published):
    folder = published / "img/things/cube"
    for name in ("rotation", "elevation"):
        np.save(published / f"camera/things/cube/{name}.npy", np.ones(VIEWS - 1))
    (folder / "001.png").unlink()
    _fails(published, re.escape(str(folder / "001.png")), "missing", "render this shape again")
    for path in folder.iterdir():
        path.unlink()
    _fails(published, re.escape(str(folder)), "no PNG images", "render this shape again")


def test_oddly_named_image(published):
    path = published / "img/things/cube/final.png"
    shutil.copy(published / "img/things/cube/000.png", path)
    _fails(published, re.escape(str(path)), "view number", "rename or remove")


def test_no_shapes_and_no_camera_folder(published):
    shutil.move(published / "camera", published / "away")
    _fails(published, re.escape(str(published / "camera")), "side by side")
    shutil.move(published / "away", published / "camera")
    for path in (published / "img/things").iterdir():
        shutil.rmtree(path)
    _fails(published, re.escape(str(published / "img/things")), "no shape folder", "check the data path")


@pytest.mark.parametrize(
    ("name", "value"), [("rotation", np.nan), ("rotation", 361.0), ("elevation", 91.0), ("elevation", np.inf)]
)
def test_bad_cameras(published, name, value):
    path = published / f"camera/things/sphere/{name}.npy"
    angles = np.load(path)
    angles[1] = value
    np.save(path, angles)
    image = published / "img/things/sphere/001.png"
    _fails(published, re.escape(str(image)), f"{name} {value}", "degrees", "render these shapes again")


def test_cameras_in_radians(tmp_path):
    shapes = {
        name: [
            replace(
                view, rotation_deg=np.deg2rad(view.rotation_deg), elevation_deg=np.deg2rad(view.elevation_deg)
            )
            for view in views
        ]
        for name, views in make_shapes().items()
    }
    _fails(
        write_shard_dataset(tmp_path / "s", shapes), re.escape(str(tmp_path / "s")), "radians", "in degrees"
    )
    _fails(write_published_dataset(tmp_path / "p", shapes), re.escape(str(tmp_path / "p")), "radians")


@pytest.mark.parametrize(
    ("mode", "reason", "fix"),
    [("RGB", "is RGB, not RGBA", "transparent"), ("L", "is L, not RGBA", "transparent")],
)
def test_images_without_alpha(published, mode, reason, fix):
    path = published / "img/things/torus/002.png"
    Image.open(path).convert(mode).save(path)
    _fails(published, re.escape(str(path)), reason, fix)


def test_image_of_another_size(published):
    path = published / "img/things/torus/002.png"
    Image.open(path).resize((16, 8)).save(path)
    _fails(published, re.escape(str(path)), "16x8", "16x16", "render it again")


def test_truncated_image(published):
    path = published / "img/things/torus/002.png"
    path.write_bytes(path.read_bytes()[:-200])
    _fails(published, re.escape(str(path)), "cannot be decoded", "render the data set again")


def _with_alpha(alpha: int, count: int) -> dict[str, list[View]]:
    shapes, left = make_shapes(), count
    for views in shapes.values():
        for view in views:
            if left:
                view.rgba_HW4[..., 3] = alpha
                left -= 1
    return shapes


@pytest.mark.parametrize(("alpha", "kind"), [(0, "empty"), (255, "full")])
def test_silhouettes_that_say_nothing(tmp_path, alpha, kind):
    few = write_published_dataset(tmp_path / "few", _with_alpha(alpha, 7))
    (warning,) = preflight(few, resolution=RESOLUTION).warnings
    assert warning.startswith(f"7 of 15 images are {kind} (alpha")
    assert str(few / "img/things/cube/000.png") in warning
    most = write_published_dataset(tmp_path / "most", _with_alpha(alpha, 8))
    _fails(most, re.escape(str(most)), f"8 of 15 images are {kind}", "render the data set again")


def test_disjoint_splits_are_kept(published, tmp_path):
    files = {name: tmp_path / f"{name}.txt" for name in SPLITS}
    for name, path in files.items():
        path.write_text("\n".join(SPLITS[name]))
    summary = preflight(published, resolution=RESOLUTION, splits=("train", "val"), split_files=files)
    assert summary.split_shapes == {"train": 3, "val": 2}


def test_cameras_that_do_not_fit_the_configuration(shards, published):
    """The synthetic data sets look from 0 to 30 degrees, all around, without settings in their manifest."""
    for data_dir in (shards, published):
        fitting = (CameraConfig(), CameraConfig("house", distribution="dataset"))
        assert all(preflight(data_dir, resolution=RESOLUTION, cameras=c).warnings == () for c in fitting)
        (warning,) = preflight(data_dir, resolution=RESOLUTION, cameras=CameraConfig("person")).warnings
        assert re.match(r"\d+% of the cameras have their elevation outside of 0 to 20 degrees", warning)
        assert "cameras.elevation_deg" in warning and "distribution: dataset" in warning
        half = CameraConfig(rotation_deg=(0.0, 180.0))
        (warning,) = preflight(data_dir, resolution=RESOLUTION, cameras=half).warnings
        assert "rotation outside of 0 to 180" in warning


def test_the_distance_and_lens_of_the_renderer_must_be_the_models(shards):
    settings = {"radius": 1.2, "fov_deg": 49.134343}
    write_manifest(shards, replace(read_manifest(shards), settings=settings))
    assert preflight(shards, resolution=RESOLUTION, cameras=CameraConfig()).warnings == ()
    _fails(
        shards,
        "radius of 1.2, the configuration has 2; set cameras.radius to 1.2",
        cameras=CameraConfig("house"),
    )
    lens = CameraConfig(field_of_view_deg=30.0)
    _fails(shards, r"field_of_view_deg of 49.1343, the configuration has 30; set cameras.field", cameras=lens)
