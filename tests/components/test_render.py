import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.render import assembly
from components.render.folder import OutputFolder, open_output
from components.render.inputs import view_angles
from components.render.job import RenderStopped, render_dataset
from components.render.pool import TaskResult, run_one
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.camera_settings import CAMERA_PRESETS, PUBLISHED_ORBIT
from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.manifest import read_manifest
from get3d_model.data.preflight import preflight
from get3d_model.errors import InputError
from get3d_model.mesh_io import save_mesh
from get3d_model.types import TexturedMesh
from tests.components.render_fakes import make_fake_renderer

PIXELS = PixelSettings(views=3, resolution=32, supersample=1)
NAMES = ["ant", "bee", "cow", "sub/dog", "eel"]
REPOSITORY = Path(__file__).parents[2]


def _save(path: Path, number: int = 0, **extras: str) -> None:
    """A flat fan with `number` + 3 corners."""
    angle_V = np.linspace(0, 2 * np.pi, number + 3, endpoint=False)
    vertices_V3 = np.stack([np.cos(angle_V), np.sin(angle_V), 0.3 * np.cos(2 * angle_V)], axis=1).astype(
        np.float32
    )
    faces_F3 = np.array([[0, i, i + 1] for i in range(1, number + 2)], np.int32)
    texture = np.full((4, 4, 3), 40 * number, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mesh(TexturedMesh(vertices_V3, faces_F3, vertices_V3[:, :2].copy(), texture, dict(extras)), path)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "meshes"
    for number, name in enumerate(NAMES):
        _save(folder / f"{name}.glb", number)
    return folder


def _render(meshes, out, slow_s=0.0, log=None, version="fake-1", **options):
    options = {"pixels": PIXELS, "workers": 2, "shapes_per_shard": 2, **options}
    renderer = functools.partial(make_fake_renderer, slow_s=slow_s, log=log)
    return render_dataset(RenderOptions(meshes, out, **options), renderer, version)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def in_process(monkeypatch) -> Iterator[None]:
    """For tests of what is done with the results: tasks run here, because workers take seconds to start."""

    def run_here(tasks, make_handler, workers, task_timeout_s, memory_limit=None):
        handler = make_handler()
        for task in tasks:
            kind, text = run_one(handler, task)
            yield TaskResult(task, None if kind == "done" else text)

    monkeypatch.setattr("components.render.job.run_tasks", run_here)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # a worker has one


@pytest.fixture(scope="module")
def reference(meshes, tmp_path_factory) -> Path:
    """Rendered by one worker, in both layouts."""
    out = tmp_path_factory.mktemp("reference") / "out"
    report = _render(meshes, out, workers=1, layout="both", category="animals")
    assert (report.shapes, report.images, report.rendered, report.up_to_date) == (5, 15, 5, False)
    return out


def test_what_is_written(reference, meshes):
    assert sorted(path.name for path in reference.iterdir()) == [
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
    manifest = read_manifest(reference)
    assert list(manifest.shapes) == ["ant", "bee", "cow", "eel", "sub-dog"]
    assert manifest.shapes["sub-dog"].source == "sub/dog.glb"
    assert [shard.shapes for shard in manifest.shards] == [["ant", "bee"], ["cow", "eel"], ["sub-dog"]]
    assert sorted(manifest.splits["train"] + manifest.splits["val"]) == list(manifest.shapes)
    assert len(manifest.splits["val"]) == 1
    assert (reference / "val.txt").read_text().split() == manifest.splits["val"]
    assert json.loads((reference / "rejected.json").read_text()) == {}
    text = (reference / "manifest.json").read_text()
    assert str(meshes.parent) not in text  # so that another machine writes the same bytes
    summary = preflight(reference, resolution=32, splits=("train", "val"), full=True)
    assert summary.warnings == ()
    for sample in RenderedDataset(reference, None):
        view = view_angles(sample.shape_id, 3, PIXELS.seed)[sample.view]
        expected = np.deg2rad([view.rotation_deg, 90 - view.elevation_deg])
        np.testing.assert_allclose(sample.angles_2.numpy(), expected, rtol=1e-6)


def test_both_layouts_hold_the_same(reference, tmp_path):
    for name in ("img", "camera"):
        (tmp_path / name).symlink_to(reference / name)
    for a, b in zip(RenderedDataset(reference, None), RenderedDataset(tmp_path, None), strict=True):
        assert (a.shape_id, a.view) == (b.shape_id, b.view)
        assert a.rgba_4HW.equal(b.rgba_4HW)
        assert a.angles_2.equal(b.angles_2)


def test_workers_and_repetition_give_the_same_bytes_and_nothing_is_done_twice(reference, meshes, tmp_path):
    log = tmp_path / "log"
    options = {"layout": "both", "category": "animals", "log": log}
    _render(meshes, tmp_path / "out", **options)
    assert _files(tmp_path / "out") == _files(reference)
    rendered = log.read_text()
    report = _render(meshes, tmp_path / "out", **options)
    assert report.up_to_date
    assert (report.shapes, report.reused) == (5, 5)
    # Other splits and another packing need no new pictures either.
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "train.txt").write_text("ant\ncow\neel\n")
    (splits / "val.txt").write_text("bee\ndog\n")
    assert _render(meshes, tmp_path / "out", splits=splits, **options).up_to_date
    assert read_manifest(tmp_path / "out").splits == {
        "train": ["ant", "cow", "eel"],
        "val": ["bee", "sub-dog"],
    }
    assert (tmp_path / "out/val.txt").read_text() == "bee\nsub-dog\n"
    report = _render(meshes, tmp_path / "out", splits=splits, log=log, shapes_per_shard=3)
    assert (report.rendered, report.reused) == (0, 5)
    assert not (tmp_path / "out/img").exists()
    assert not (tmp_path / "out/train.txt").exists()
    assert [len(shard.shapes) for shard in read_manifest(tmp_path / "out").shards] == [3, 2]
    preflight(tmp_path / "out", resolution=32, splits=("train", "val"), full=True)
    assert log.read_text() == rendered


def test_new_changed_and_damaged_inputs_cost_only_themselves(reference, meshes, tmp_path, in_process):
    shutil.copytree(meshes, tmp_path / "meshes")
    shutil.copytree(reference, tmp_path / "out")
    _save(tmp_path / "meshes/bee.glb", 7)
    _save(tmp_path / "meshes/fly.glb", 8)
    (tmp_path / "meshes/cow.glb").unlink()
    shard = tmp_path / "out/shards/000002.tar"
    shard.write_bytes(bytes(shard.stat().st_size))  # sub-dog is lost
    report = _render(tmp_path / "meshes", tmp_path / "out")
    assert (report.shapes, report.rendered, report.reused) == (5, 3, 2)
    _render(tmp_path / "meshes", tmp_path / "fresh")
    assert _files(tmp_path / "out") == _files(tmp_path / "fresh")


def test_other_settings_replace_a_finished_data_set(reference, meshes, tmp_path, in_process):
    shutil.copytree(reference, tmp_path / "out")
    (tmp_path / "out/shards/000009.tar").write_bytes(b"left over")
    pixels = replace(PIXELS, seed=1, views=2)
    assert _render(meshes, tmp_path / "out", pixels=pixels).rendered == 5
    summary = preflight(tmp_path / "out", resolution=32)
    assert summary.images == 10
    _render(meshes, tmp_path / "published", pixels=pixels, layout="published", category="animals")
    assert sorted(path.name for path in (tmp_path / "published").iterdir()) == [
        *("camera", "img", "manifest.json", "rejected.json", "splits", "train.txt", "val.txt"),
    ]
    first, second = RenderedDataset(tmp_path / "out", "val"), RenderedDataset(tmp_path / "published", "val")
    assert [sample.shape_id for sample in first] == [sample.shape_id for sample in second]
    assert all(a.rgba_4HW.equal(b.rgba_4HW) for a, b in zip(first, second, strict=True))


BAD_FILES = {
    "empty.glb": b"",
    "garbage.glb": b"this is no mesh at all, whatever its name says",
    "json.gltf": b"{",
    "index.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n",
    "nan.obj": b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "noface.obj": b"v 0 0 0\nv 1 0 0\n",
    "point.obj": b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n",
    "library.obj": b"mtllib broken.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "header.ply": b"ply\nformat ascii 1.0\nelement vertex 3\n",
}
TROUBLE = {
    "segfault": "the worker process crashed with SIGSEGV",
    "hang": "took longer than",
    "bug": "unexpected IndexError: index 7 is out of bounds",
    "invisible": "none of its triangles is visible",
}


def test_bad_meshes_are_set_aside(meshes, reference, tmp_path, capfd, request):
    folder = tmp_path / "meshes"
    shutil.copytree(meshes, folder)
    for name, content in BAD_FILES.items():
        (folder / name).write_bytes(content)
    (folder / "broken.mtl").write_text("newmtl a\nKd red\n")
    (folder / "truncated.glb").write_bytes((meshes / "ant.glb").read_bytes()[:-100])
    for trouble in TROUBLE:
        _save(folder / f"{trouble}.glb", trouble=trouble)
    (tmp_path / "train.txt").write_text("ant\nbee\ngarbage\n")
    (tmp_path / "val.txt").write_text("cow\nhang\n")
    report = _render(folder, tmp_path / "out", mesh_timeout_s=1.0)
    rejected = json.loads((tmp_path / "out/rejected.json").read_text())
    bad = [*BAD_FILES, "truncated.glb", *(f"{trouble}.glb" for trouble in TROUBLE)]
    assert {entry["file"] for entry in rejected.values()} == set(bad)
    assert report.rejected == {shape_id: entry["reason"] for shape_id, entry in rejected.items()}
    for trouble, reason in TROUBLE.items():
        assert rejected[trouble]["reason"].startswith(reason)
    assert "truncated" in rejected["truncated"]["reason"]
    assert "broken.mtl" in rejected["library"]["reason"]
    for entry in rejected.values():
        assert entry["reason"].strip()
        assert "\n" not in entry["reason"]
    manifest = read_manifest(tmp_path / "out")
    assert manifest.splits == {"train": ["ant", "bee", "eel", "sub-dog"], "val": ["cow"]}
    assert set(manifest.rejected) == set(rejected)
    for name in ("shards/000000.tar", "shards/000001.tar", "shards/000002.tar", "index.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (reference / name).read_bytes()
    text = capfd.readouterr().err
    assert "2 shapes are in no split file and go to train" in text
    assert "Traceback" not in text
    # They are part of what is up to date; asked for, they are tried again, and nothing else is.
    again = _render(folder, tmp_path / "out", mesh_timeout_s=1.0)
    assert again.up_to_date
    assert again.rejected == report.rejected
    for name in [*BAD_FILES, "truncated.glb", *(f"{trouble}.glb" for trouble in TROUBLE if trouble != "bug")]:
        (folder / name).unlink()
    request.getfixturevalue("in_process")
    retried = _render(folder, tmp_path / "out", retry_rejected=True)
    assert (retried.rendered, retried.reused, list(retried.rejected)) == (0, 5, ["bug"])


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


def test_nothing_to_render(tmp_path, in_process):
    with pytest.raises(InputError, match="does not exist"):
        _render(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "meshes").mkdir()
    with pytest.raises(InputError, match="holds no"):
        _render(tmp_path / "meshes", tmp_path / "out")
    (tmp_path / "meshes/a.glb").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"none of the 1 meshes could be rendered; the first is a.glb: "):
        _render(tmp_path / "meshes", tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    assert list(json.loads((tmp_path / "out/.partial/rejected.json").read_text())) == ["a"]


def test_folders_that_are_not_ours_stay_as_they_are(meshes, tmp_path):
    (tmp_path / "img").mkdir()
    with pytest.raises(InputError, match=r"holds files that are no data set of this program, such as img"):
        _render(meshes, tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(InputError, match="choose another folder"):
        _render(meshes, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["img", "manifest.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        _render(meshes, tmp_path / "file" / "out")


def test_two_runs_cannot_share_a_folder(meshes, tmp_path):
    with open_output(tmp_path / "out"), pytest.raises(InputError, match="another run is writing"):
        _render(meshes, tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("views", 0),
        ("resolution", 4),
        ("supersample", 9),
        ("scale", 0.0),
        ("seed", -1),
        ("workers", 0),
        ("val_fraction", 1.0),
        ("shapes_per_shard", 0),
        ("mesh_timeout_s", 0.0),
        ("layout", "zip"),
        ("category", "a/b"),
    ],
)
def test_options_out_of_range(option, value):
    with pytest.raises(InputError, match=str(value)):
        if option in PixelSettings.__dataclass_fields__:
            PixelSettings(**{option: value})
        else:
            RenderOptions(Path("a"), Path("b"), **{option: value})


SCRIPT = """
import functools, sys
from pathlib import Path
from components.render.job import RenderStopped, render_dataset
from components.render.pool import TaskResult, run_one
from components.render.settings import PixelSettings, RenderOptions
from tests.components.render_fakes import make_fake_renderer
pixels = PixelSettings(views=3, resolution=32, supersample=1)
options = RenderOptions(Path(sys.argv[1]), Path(sys.argv[2]), pixels, workers=2, shapes_per_shard=2)
try:
    render_dataset(options, functools.partial(make_fake_renderer, slow_s=0.7), "fake-1")
except RenderStopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(128 + stopped.signal_number)
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _pieces(out: Path) -> int:
    return sum(not path.name.startswith(".") for path in (out / ".partial/pieces").glob("*.piece"))


def _stop_after_the_next_piece(meshes: Path, out: Path, signum: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(meshes), str(out)]
    run = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore it, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    before = _pieces(out)
    while _pieces(out) == before:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.02)
    children = _children(run.pid)
    assert len(children) >= 2
    if signum == signal.SIGKILL:
        run.kill()
        _, text = run.communicate()
        assert run.returncode == -signum
    else:
        os.killpg(run.pid, signum)  # as a terminal does
        _, text = run.communicate()
        assert run.returncode == 128 + signum
        assert text.endswith("rendering stopped; the same command continues where it was\n")
        assert "Traceback" not in text
    while any(_alive(pid) for pid in children):  # the orphans of a killed run notice by themselves
        time.sleep(0.02)
    assert [path.name for path in out.iterdir()] == [".partial"]


@pytest.mark.e2e
def test_a_stopped_run_continues(tmp_path, in_process):
    # Many: the run must still be under way when it is stopped.
    for number in range(24):
        _save(tmp_path / f"meshes/m{number}.glb", number)
    out = tmp_path / "out"
    for signum in (signal.SIGKILL, signal.SIGINT):
        _stop_after_the_next_piece(tmp_path / "meshes", out, signum)
    done = _pieces(out)
    assert 2 <= done < 24
    report = _render(tmp_path / "meshes", out)
    assert (report.rendered, report.reused) == (24 - done, done)
    _render(tmp_path / "meshes", tmp_path / "fresh")
    assert _files(out) == _files(tmp_path / "fresh")


def test_sigterm_stops_a_run_as_a_scheduler_expects(meshes, tmp_path, monkeypatch):
    def run_here(*args):
        signal.raise_signal(signal.SIGTERM)
        yield

    monkeypatch.setattr("components.render.job.run_tasks", run_here)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RenderStopped, match="the same command continues") as caught:
        _render(meshes, tmp_path / "out")
    assert caught.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("moment", ["assembling", "manifest staged", "moving"])
def test_a_run_stopped_after_rendering_continues(
    reference, meshes, tmp_path, monkeypatch, in_process, moment
):
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    before = _files(out)
    owner, name, stops_at = {
        "assembling": (assembly, "_publish", lambda root, category, shape_id, piece: shape_id == "cow"),
        "manifest staged": (OutputFolder, "commit", lambda folder: True),
        "moving": (os, "replace", lambda source, target: str(source).endswith(".partial/out/camera")),
    }[moment]
    original = getattr(owner, name)

    def stop(*args):
        if stops_at(*args):
            raise KeyboardInterrupt
        return original(*args)

    options = {"layout": "both", "category": "animals", "pixels": replace(PIXELS, seed=1)}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, stop)
        _render(meshes, out, **options)
    if moment == "moving":
        assert not (out / "manifest.json").exists()
    else:
        finished = {name: content for name, content in _files(out).items() if not name.startswith(".partial")}
        assert finished == before
    log = tmp_path / "log"
    _render(meshes, out, log=log, **options)
    assert not log.exists()  # nothing was rendered again
    _render(meshes, tmp_path / "fresh", **options)
    assert _files(out) == _files(tmp_path / "fresh")
