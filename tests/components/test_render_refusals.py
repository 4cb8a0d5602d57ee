"""What cannot be rendered: meshes are set aside, folders and options are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.render.folder import open_output
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.data.manifest import read_manifest
from get3d_model.errors import InputError
from pipelines.cli import main
from tests.components.render_helpers import render, render_in_process, save_fan


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from render_in_process(monkeypatch)


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


def test_bad_meshes_are_set_aside(fans, fans_rendered, tmp_path, capfd, request):
    folder = tmp_path / "meshes"
    shutil.copytree(fans, folder)
    for name, content in BAD_FILES.items():
        (folder / name).write_bytes(content)
    (folder / "broken.mtl").write_text("newmtl a\nKd red\n")
    (folder / "truncated.glb").write_bytes((fans / "ant.glb").read_bytes()[:-100])
    for trouble in TROUBLE:
        save_fan(folder / f"{trouble}.glb", trouble=trouble)
    (tmp_path / "train.txt").write_text("ant\nbee\ngarbage\n")
    (tmp_path / "val.txt").write_text("cow\nhang\n")
    report = render(folder, tmp_path / "out", mesh_timeout_s=1.0)
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
        assert (tmp_path / "out" / name).read_bytes() == (fans_rendered / name).read_bytes()
    text = capfd.readouterr().err
    assert "2 shapes are in no split file and go to train" in text
    assert "Traceback" not in text
    # They are part of what is up to date; asked for, they are tried again, and nothing else is.
    again = render(folder, tmp_path / "out", mesh_timeout_s=1.0)
    assert again.up_to_date
    assert again.rejected == report.rejected
    for name in [*BAD_FILES, "truncated.glb", *(f"{trouble}.glb" for trouble in TROUBLE if trouble != "bug")]:
        (folder / name).unlink()
    request.getfixturevalue("in_process")
    retried = render(folder, tmp_path / "out", retry_rejected=True)
    assert (retried.rendered, retried.reused, list(retried.rejected)) == (0, 5, ["bug"])


def test_nothing_to_render(tmp_path, in_process):
    with pytest.raises(InputError, match="does not exist"):
        render(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "meshes").mkdir()
    with pytest.raises(InputError, match="holds no"):
        render(tmp_path / "meshes", tmp_path / "out")
    (tmp_path / "meshes/a.glb").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"none of the 1 meshes could be rendered; the first is a.glb: "):
        render(tmp_path / "meshes", tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    assert list(json.loads((tmp_path / "out/.partial/rejected.json").read_text())) == ["a"]


def test_folders_that_are_not_ours_stay_as_they_are(fans, tmp_path):
    (tmp_path / "img").mkdir()
    with pytest.raises(InputError, match=r"holds files that are no data set of this program, such as img"):
        render(fans, tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(InputError, match="choose another folder"):
        render(fans, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["img", "manifest.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        render(fans, tmp_path / "file" / "out")


def test_two_runs_cannot_share_a_folder(fans, tmp_path):
    with open_output(tmp_path / "out"), pytest.raises(InputError, match="another run is writing"):
        render(fans, tmp_path / "out")


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", "out"], "it is empty"),
        (["meshes", ""], "it is empty"),
        (["meshes", "out", "--max-memory", "nan"], "--max-memory must be a number of GB"),
        (["meshes", "out", "--max-memory", "inf"], "--max-memory must be a number of GB"),
        (["meshes", "out", "--max-memory", "0.001"], "--max-memory must be at least"),
    ],
)
def test_mistakes_on_the_command_line(arguments, words, capsys):
    try:
        code = main(["render", *arguments])
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2 and words in capsys.readouterr().err
