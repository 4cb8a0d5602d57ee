"""A data set: what is written, and that nothing is done twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from components.render.inputs import view_angles
from components.render.job import render_dataset
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.camera_settings import CAMERA_PRESETS, PUBLISHED_ORBIT
from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.manifest import read_manifest
from get3d_model.data.preflight import preflight
from get3d_model.mesh_io import save_mesh
from get3d_model.types import TexturedMesh
from tests.components.render_helpers import BOTH, PIXELS, files, render, render_in_process, save_fan


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from render_in_process(monkeypatch)


def test_what_is_written(fans_rendered, fans):
    assert sorted(path.name for path in fans_rendered.iterdir()) == [
        *(
            "camera",
            "img",
            "index.npy",
            "manifest.json",
            "rejected.json",
            "shards",
            "splits",
            "train.txt",
            "val.txt",
        ),
    ]
    manifest = read_manifest(fans_rendered)
    assert list(manifest.shapes) == ["ant", "bee", "cow", "eel", "sub-dog"]
    assert manifest.shapes["sub-dog"].source == "sub/dog.glb"
    assert [shard.shapes for shard in manifest.shards] == [["ant", "bee"], ["cow", "eel"], ["sub-dog"]]
    assert sorted(manifest.splits["train"] + manifest.splits["val"]) == list(manifest.shapes)
    assert len(manifest.splits["val"]) == 1
    assert (fans_rendered / "val.txt").read_text().split() == manifest.splits["val"]
    assert json.loads((fans_rendered / "rejected.json").read_text()) == {}
    text = (fans_rendered / "manifest.json").read_text()
    assert str(fans.parent) not in text  # so that another machine writes the same bytes
    summary = preflight(fans_rendered, resolution=32, splits=("train", "val"), full=True)
    assert summary.warnings == ()
    for sample in RenderedDataset(fans_rendered, None):
        view = view_angles(sample.shape_id, 3, PIXELS.seed)[sample.view]
        expected = np.deg2rad([view.rotation_deg, 90 - view.elevation_deg])
        np.testing.assert_allclose(sample.angles_2.numpy(), expected, rtol=1e-6)


def test_both_layouts_hold_the_same(fans_rendered, tmp_path):
    for name in ("img", "camera"):
        (tmp_path / name).symlink_to(fans_rendered / name)
    for a, b in zip(RenderedDataset(fans_rendered, None), RenderedDataset(tmp_path, None), strict=True):
        assert (a.shape_id, a.view) == (b.shape_id, b.view)
        assert a.rgba_4HW.equal(b.rgba_4HW)
        assert a.angles_2.equal(b.angles_2)


def test_workers_and_repetition_give_the_same_bytes_and_nothing_is_done_twice(fans_rendered, fans, tmp_path):
    log = tmp_path / "log"
    options = {**BOTH, "log": log}
    render(fans, tmp_path / "out", **options)
    assert files(tmp_path / "out") == files(fans_rendered)
    rendered = log.read_text()
    report = render(fans, tmp_path / "out", **options)
    assert report.up_to_date
    assert (report.shapes, report.reused) == (5, 5)
    # Other splits and another packing need no new pictures either.
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "train.txt").write_text("ant\ncow\neel\n")
    (splits / "val.txt").write_text("bee\ndog\n")
    assert render(fans, tmp_path / "out", splits=splits, **options).up_to_date
    assert read_manifest(tmp_path / "out").splits == {
        "train": ["ant", "cow", "eel"],
        "val": ["bee", "sub-dog"],
    }
    assert (tmp_path / "out/val.txt").read_text() == "bee\nsub-dog\n"
    report = render(fans, tmp_path / "out", splits=splits, log=log, shapes_per_shard=3)
    assert (report.rendered, report.reused) == (0, 5)
    assert not (tmp_path / "out/img").exists()
    assert not (tmp_path / "out/train.txt").exists()
    assert [len(shard.shapes) for shard in read_manifest(tmp_path / "out").shards] == [3, 2]
    preflight(tmp_path / "out", resolution=32, splits=("train", "val"), full=True)
    assert log.read_text() == rendered


def test_new_changed_and_damaged_inputs_cost_only_themselves(fans_rendered, fans, tmp_path, in_process):
    shutil.copytree(fans, tmp_path / "meshes")
    shutil.copytree(fans_rendered, tmp_path / "out")
    save_fan(tmp_path / "meshes/bee.glb", 7)
    save_fan(tmp_path / "meshes/fly.glb", 8)
    (tmp_path / "meshes/cow.glb").unlink()
    shard = tmp_path / "out/shards/000002.tar"
    shard.write_bytes(bytes(shard.stat().st_size))  # sub-dog is lost
    report = render(tmp_path / "meshes", tmp_path / "out")
    assert (report.shapes, report.rendered, report.reused) == (5, 3, 2)
    render(tmp_path / "meshes", tmp_path / "fresh")
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_other_settings_replace_a_finished_data_set(fans_rendered, fans, tmp_path, in_process):
    shutil.copytree(fans_rendered, tmp_path / "out")
    (tmp_path / "out/shards/000009.tar").write_bytes(b"left over")
    pixels = replace(PIXELS, seed=1, views=2)
    assert render(fans, tmp_path / "out", pixels=pixels).rendered == 5
    summary = preflight(tmp_path / "out", resolution=32)
    assert summary.images == 10
    render(fans, tmp_path / "published", pixels=pixels, layout="published", category="animals")
    assert sorted(path.name for path in (tmp_path / "published").iterdir()) == [
        *("camera", "img", "manifest.json", "rejected.json", "splits", "train.txt", "val.txt"),
    ]
    first, second = RenderedDataset(tmp_path / "out", "val"), RenderedDataset(tmp_path / "published", "val")
    assert [sample.shape_id for sample in first] == [sample.shape_id for sample in second]
    assert all(a.rgba_4HW.equal(b.rgba_4HW) for a, b in zip(first, second, strict=True))


NOTHING_LEFT_TO_COMPILE = """
import sys
from pathlib import Path
from components.render.settings import PixelSettings
from components.render.worker import RenderTask, make_handler, make_mesh_renderer
from get3d_model import png
from get3d_model.rendering import mipmap, normals, shading
from get3d_model.rendering.cpu import coverage

def compiled():
    modules = (png, mipmap, normals, shading, coverage)
    values = [value for module in modules for value in vars(module).values()]
    return sum(len(value.signatures) for value in values if hasattr(value, "signatures"))

handle = make_handler(PixelSettings(views=2, resolution=16), make_mesh_renderer)
before, folder = compiled(), Path(sys.argv[1])
handle(RenderTask("fan", folder / "fan.glb", folder / "piece"))
assert compiled() == before > 4
"""


def test_no_mesh_pays_for_the_kernels(tmp_path):
    """All of them are compiled before the first mesh, whose time is limited."""
    save_fan(tmp_path / "fan.glb")
    subprocess.run([sys.executable, "-c", NOTHING_LEFT_TO_COMPILE, str(tmp_path)], check=True)


@pytest.mark.parametrize("orbit", [PUBLISHED_ORBIT, CAMERA_PRESETS["house"]], ids=["published", "house"])
def test_pictures_and_cameras_of_the_real_renderer_agree(orbit, tmp_path, in_process):
    # A red and a blue cube, mirrored at the origin, so that normalising only scales them.
    corner_83 = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    quads_64 = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces_F3 = np.concatenate([quads_64[:, [0, 1, 2]], quads_64[:, [0, 2, 3]]]).astype(np.int32)
    centre_3 = np.array([1.5, 0.8, -1.0])
    vertices_V3 = np.concatenate([0.2 * corner_83 + centre_3, 0.2 * corner_83 - centre_3]).astype(np.float32)
    uvs_V2 = np.repeat(np.array([[0.25, 0.5], [0.75, 0.5]], np.float32), 8, axis=0)
    texture = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8).repeat(8, 0).repeat(8, 1)
    (tmp_path / "meshes").mkdir()
    mesh = TexturedMesh(vertices_V3, np.concatenate([faces_F3, faces_F3 + 8]), uvs_V2, texture)
    save_mesh(mesh, tmp_path / "meshes/cubes.glb")
    pixels = PixelSettings(views=12, resolution=64, supersample=2, cameras=orbit)
    options = RenderOptions(tmp_path / "meshes", tmp_path / "out", pixels, layout="published", category="c")
    focal = 1 / np.tan(np.deg2rad(orbit.field_of_view_deg) / 2)
    assert render_dataset(options).images == 12
    red_3 = centre_3 * 0.8 / np.ptp(vertices_V3, axis=0).max()
    cameras = tmp_path / "out/camera/c/cubes"
    checked = 0
    for view, (rotation, elevation) in enumerate(
        zip(np.load(cameras / "rotation.npy"), np.load(cameras / "elevation.npy"), strict=True)
    ):
        # The published convention, written out anew.
        theta, phi = -np.deg2rad(rotation) - np.pi / 2, np.deg2rad(90 - elevation)
        eye = orbit.radius * np.array([np.sin(phi) * np.cos(theta), np.cos(phi), np.sin(phi) * np.sin(theta)])
        forward = -eye / orbit.radius
        right = np.cross(forward, [0, 1, 0])
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        expected = []
        for point in (red_3, -red_3):
            depth = (point - eye) @ forward
            x, y = focal * ((point - eye) @ right) / depth, focal * ((point - eye) @ up) / depth
            expected.append([(1 - y) / 2 * 64, (1 + x) / 2 * 64])
        if np.linalg.norm(np.subtract(*expected)) < 16:
            continue  # one cube may hide the other
        rgba = np.asarray(Image.open(tmp_path / f"out/img/c/cubes/{view:03d}.png")).astype(float)
        for channel, centre in ((0, expected[0]), (2, expected[1])):
            weight = rgba[..., 3] * (rgba[..., channel] > 2 * rgba[..., 2 - channel])
            found = [(weight * axis).sum() / weight.sum() + 0.5 for axis in np.indices((64, 64))]
            np.testing.assert_allclose(found, centre, atol=0.7)
        checked += 1
    assert checked >= 6
