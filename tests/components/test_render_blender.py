"""Pictures by Blender: its process from the outside with a stand-in, and the real one where it is installed."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.render import main
from components.render.blender import client, install
from components.render.blender.client import BlenderRenderer, blender_renderer_factory, check_eevee
from components.render.blender.install import BlenderInstall, find_blender
from components.render.blender.settings import BlenderSettings
from components.render.pool import FatalError
from components.render.settings import PixelSettings
from components.synth.main import write_vehicles
from get3d_model.cameras import orbit_camera, turntable
from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.manifest import read_manifest
from get3d_model.errors import InputError
from get3d_model.mesh_io import load_textured_mesh, normalize, save_mesh
from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer
from get3d_model.rendering.select import make_rasterizer
from get3d_model.types import Camera, TexturedMesh

FAKE = BlenderInstall((sys.executable,), "9.9.9", "a stand-in")
CYCLES = BlenderSettings("9.9.9")


def quad(texture_HW3: np.ndarray | None = None, **extras: str) -> TexturedMesh:
    """A square in the ground plane, its longest side 0.8, seen from above as its picture."""
    corners_43 = np.array([[-1, 0, 1], [1, 0, 1], [1, 0, -1], [-1, 0, -1]], np.float32) * 0.4
    uvs_42 = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    if texture_HW3 is None:
        texture_HW3 = np.full((4, 4, 3), 188, np.uint8)
    return TexturedMesh(
        corners_43, np.array([[0, 1, 2], [0, 2, 3]], np.int32), uvs_42, texture_HW3, dict(extras)
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(client, "DRIVER", Path(__file__).with_name("blender_fake.py"))
    started = []

    def make(
        settings: BlenderSettings = CYCLES, time_limit_s: float = 60.0, **options: object
    ) -> BlenderRenderer:
        scratch = options.pop("scratch", tmp_path / "scratch")
        started.append(BlenderRenderer(FAKE, settings, 8, scratch, time_limit_s, **options))
        return started[-1]

    yield make
    for renderer in started:
        renderer.close()


def process_of(rgba_BHW4: np.ndarray) -> int:
    red, green, blue, alpha = rgba_BHW4[0, 1, 1].tolist()
    assert alpha == 255
    return red << 16 | green << 8 | blue


def test_one_process_for_all_meshes_and_nothing_left_behind(stand_in, tmp_path) -> None:
    renderer = stand_in()
    first = renderer.render(quad(), turntable(3))
    assert first.shape == (3, 8, 8, 4) and first.dtype == np.uint8
    assert (first[:, 0, 0] == 0).all()  # no colour where nothing is
    assert process_of(renderer.render(quad(), turntable(1))) == process_of(first)
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(InputError, match="could not render it: ValueError: no mesh"):
        renderer.render(quad(trouble="error"), turntable(1))
    assert process_of(renderer.render(quad(), turntable(1))) == process_of(first)


def test_a_crash_costs_one_mesh(stand_in) -> None:
    renderer = stand_in()
    first = process_of(renderer.render(quad(), turntable(1)))
    with pytest.raises(
        InputError, match=r"crashed with SIGSEGV while rendering it; it said: out of embree$"
    ) as caught:
        renderer.render(quad(trouble="crash"), turntable(1))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    assert process_of(renderer.render(quad(), turntable(1))) != first


def test_a_hanging_process_is_stopped_and_replaced(stand_in) -> None:
    renderer = stand_in(time_limit_s=2.0)
    first = process_of(renderer.render(quad(), turntable(1)))
    begin = time.monotonic()
    with pytest.raises(InputError, match="took longer than 2 s rendering it; raise --mesh-timeout"):
        renderer.render(quad(trouble="hang"), turntable(1))
    assert 1.5 < time.monotonic() - begin < 10.0
    assert not Path(f"/proc/{first}").exists()
    assert process_of(renderer.render(quad(), turntable(1))) != first


def test_what_keeps_blender_from_working(stand_in, tmp_path) -> None:
    with pytest.raises(InputError, match="ended with code 3 while starting; it said: EGL: no display"):
        stand_in(replace(CYCLES, samples=13)).start()
    with pytest.raises(InputError, match=r"a stand-in\) cannot be used: it is version 9.9.9, not 1.2.3"):
        stand_in(replace(CYCLES, version="1.2.3")).start()
    (tmp_path / "file").touch()
    with pytest.raises(FatalError, match="cannot be written"):
        stand_in(scratch=tmp_path / "file" / "below").render(quad(), turntable(1))


def test_half_a_picture(stand_in, monkeypatch) -> None:
    with pytest.raises(InputError, match="Blender's picture: the image cannot be decoded"):
        stand_in().render(quad(trouble="half"), turntable(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(FatalError, match="scratch is full; make space or set TMPDIR"):
        stand_in().render(quad(trouble="half"), turntable(1))


def test_eevee_is_tried_before_the_run(stand_in) -> None:
    eevee = replace(CYCLES, engine="eevee")
    assert "no GPU and draws on the processor (a processor)" in check_eevee(FAKE, eevee)
    with pytest.raises(InputError, match=r"Eevee needs a GPU .* use --engine cycles .*EGL: no display"):
        check_eevee(FAKE, replace(eevee, samples=13))


def test_settings_are_part_of_the_data_set() -> None:
    raster = PixelSettings()
    blender = replace(raster, blender=CYCLES)
    assert "backend" not in raster.describe()  # so that data sets from before there was a choice stay current
    described = blender.describe()
    assert (described["backend"], described["engine"], described["samples"]) == ("blender", "cycles", 32)
    assert "lighting" not in described and "supersample" not in described
    others = [
        raster,
        *(
            replace(raster, blender=replace(CYCLES, **c))
            for c in ({"engine": "eevee"}, {"samples": 8}, {"version": "8"})
        ),
    ]
    keys = {pixels.key("v", "shape", "hash") for pixels in (blender, *others)}
    assert len(keys) == 5
    assert replace(blender, supersample=1).key("v", "s", "h") == blender.key("v", "s", "h")


@pytest.mark.parametrize(("name", "value"), [("engine", "workbench"), ("samples", 0)])
def test_settings_out_of_range(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"--{name} must be .*not '?{value}"):
        BlenderSettings("4", **{name: value})


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_where_blender_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    blender = program(tmp_path / "blender", "echo 'Color management: ready'; echo 'Blender 3.4.1'")
    python = program(tmp_path / "python3", '[ "$1" = -c ] && echo Blender 4.5.15 LTS')
    on_path = find_blender(environment={"PATH": str(tmp_path)})
    assert on_path.version == "3.4.1" and on_path.command[:2] == (blender, "--background")
    assert find_blender(environment={"PATH": "", "BLENDER": blender}) == on_path
    everything = {"PATH": str(tmp_path), "BLENDER": blender, "BLENDER_PYTHON": python}
    module = find_blender(environment=everything)
    assert module.command == (python,) and module.version == "4.5.15"
    assert find_blender(blender, everything) == on_path


def test_blender_that_is_missing_or_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"not installed.*pip install bpy==4.5.*BLENDER_PYTHON=DIR"
    ) as caught:
        find_blender(environment={"PATH": str(tmp_path)})
    assert "\n" not in str(caught.value)
    old = program(tmp_path / "blender", "echo Blender 2.82")
    broken = program(tmp_path / "python", "echo 'No module named bpy' >&2; exit 1")
    for given, reason in (
        (str(tmp_path / "none"), "--blender: there is no program"),
        (old, "is Blender 2.82, 3.0 is the oldest"),
        (broken, "no working Blender .No module named bpy."),
    ):
        with pytest.raises(InputError, match=reason):
            find_blender(given, {})


@pytest.fixture(scope="module")
def blender() -> BlenderInstall:
    try:
        return find_blender()
    except InputError as error:
        pytest.skip(f"NOT RUN: {error}")


@pytest.fixture
def real(blender: BlenderInstall, tmp_path: Path):
    started = []

    def make(resolution: int, samples: int) -> BlenderRenderer:
        settings = BlenderSettings(blender.version, samples=samples)
        started.append(BlenderRenderer(blender, settings, resolution, tmp_path / "scratch", 200.0))
        return started[-1]

    yield make
    for renderer in started:
        renderer.close()


def raster(
    mesh: TexturedMesh, camera: Camera, resolution: int, lighting: Lighting | None = None
) -> np.ndarray:
    # 8 samples a side, because of 4 half of them is a common sum, which all counts as inside.
    rasterizer = make_rasterizer(torch.device("cpu"))
    return MeshRenderer(rasterizer, resolution, 8, lighting or Lighting()).render(mesh, camera)


def overlap(a_BHW4: np.ndarray, b_BHW4: np.ndarray) -> float:
    """The smallest intersection over union of the silhouettes."""
    a_BHW, b_BHW = a_BHW4[..., 3] >= 128, b_BHW4[..., 3] >= 128
    return float(((a_BHW & b_BHW).sum((1, 2)) / (a_BHW | b_BHW).sum((1, 2))).min())


def centre(rgba_BHW4: np.ndarray) -> np.ndarray:
    """(row, column) of the silhouettes' centres, pixels, 2B."""
    alpha_BHW = rgba_BHW4[..., 3] / 255.0
    rows_HW, columns_HW = np.indices(alpha_BHW.shape[1:])
    return np.stack([(alpha_BHW * at_HW).sum((1, 2)) for at_HW in (rows_HW, columns_HW)]) / alpha_BHW.sum(
        (1, 2)
    )


@pytest.mark.slow
def test_both_backends_see_the_same_silhouette(real, tmp_path) -> None:
    camera = orbit_camera(torch.tensor([0.6, 3.9]), torch.deg2rad(torch.tensor([88.0, 64.0])))
    renderer = real(256, 32)
    write_vehicles(tmp_path, 2, 3)
    for path in sorted(tmp_path.glob("*.glb")):
        mesh = normalize(load_textured_mesh(path))
        ours, theirs = raster(mesh, camera, 256), renderer.render(mesh, camera)
        assert overlap(ours, theirs) > 0.995
        np.testing.assert_allclose(centre(theirs), centre(ours), atol=0.05)
        # One pixel aside, and the checks fail.
        for axis in (1, 2):
            aside = np.roll(theirs, 1, axis)
            assert overlap(ours, aside) < 0.99 and np.abs(centre(aside) - centre(ours)).max() > 0.9


@pytest.mark.slow
def test_light_colours_and_orientation(real) -> None:
    camera = orbit_camera(torch.tensor([0.0]), torch.deg2rad(torch.tensor([25.0])))
    renderer = real(64, 32)
    # White appears as 1 where it faces the light, so a grey appears as it is, but for the gloss of the material.
    grey = renderer.render(quad(), camera)[0, 24:40, 24:40, :3].astype(float)
    assert np.abs(grey.mean() - 188) < 4 and np.ptp(grey, axis=-1).max() <= 2
    # Four different quarters, each where our own renderer has it.
    texture_HW3 = np.zeros((64, 64, 3), np.uint8)
    for index, colour in enumerate([(200, 20, 20), (20, 200, 20), (20, 20, 200), (180, 180, 20)]):
        texture_HW3[index // 2 * 32 :, index % 2 * 32 :] = colour
    theirs = renderer.render(quad(texture_HW3), camera)[0]
    ours = raster(quad(texture_HW3), camera, 64, Lighting.unlit())[0]
    both = (ours[..., 3] == 255) & (theirs[..., 3] == 255)
    assert both.sum() > 400
    for picture, agree in ((theirs, True), (theirs[:, ::-1], False), (theirs[::-1], False)):
        same = ((ours[..., :3] > 110) == (picture[..., :3] > 110)).all(-1)[both].mean()
        assert same > 0.95 if agree else same < 0.2


@pytest.mark.slow
def test_a_mesh_looks_the_same_whatever_came_before(real) -> None:
    renderer = real(48, 4)
    camera = turntable(2)
    other = quad(np.full((8, 8, 3), (250, 0, 0), np.uint8))
    first = renderer.render(quad(), camera)
    # Several times, because a stale texture showed only now and then.
    for _ in range(6):
        assert (renderer.render(other, camera) != first).any()
        np.testing.assert_array_equal(renderer.render(quad(), camera), first)
    np.testing.assert_array_equal(real(48, 4).render(quad(), camera), first)


@pytest.mark.slow
def test_a_data_set_by_blender(blender, tmp_path, capfd) -> None:
    for name, height in (("flat", 0.0), ("tent", 0.3)):
        mesh = quad()
        mesh.vertices_V3[2:, 1] += height
        (tmp_path / "meshes").mkdir(exist_ok=True)
        save_mesh(mesh, tmp_path / "meshes" / f"{name}.glb")
    (tmp_path / "meshes/bad.glb").write_bytes(b"nothing")

    def run(*more: str) -> str:
        parser = argparse.ArgumentParser()
        main.add_arguments(parser)
        fixed = "--views 2 --resolution 32 --workers 1 --cameras house --samples 4"
        main.run(parser.parse_args([str(tmp_path / "meshes"), str(tmp_path / "out"), *fixed.split(), *more]))
        return capfd.readouterr().err

    assert "2 rendered, 0 kept, 1 set aside" in run("--backend", "blender")
    settings = read_manifest(tmp_path / "out").settings
    assert (settings["backend"], settings["blender_version"]) == ("blender", blender.version)
    assert len(RenderedDataset(tmp_path / "out", None)) == 4
    assert "is up to date" in run("--backend", "blender")
    assert "2 rendered, 0 kept" in run("--backend", "blender", "--samples", "5")
    assert "2 rendered, 0 kept" in run()  # nothing of Blender's is taken for our own renderer's


@pytest.mark.slow
def test_eevee_works_or_says_why_not(blender) -> None:
    try:
        warning = check_eevee(blender, BlenderSettings(blender.version, "eevee", 4))
    except InputError as error:
        assert "use --engine cycles" in str(error) and "\n" not in str(error)
    else:
        assert warning is None or "--engine cycles is quicker" in warning


def test_the_factory_can_be_sent_to_workers(tmp_path) -> None:
    import pickle

    pickle.loads(pickle.dumps(blender_renderer_factory(FAKE, tmp_path, 300.0)))
