"""`get3d render URL URL`: meshes out of a store, data sets into one; fsspec's store in memory stands for all."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from components.data import main as data_main
from components.render import main as render_main
from components.render.inputs import find_meshes
from components.render.remote import fetch_meshes, merge_at
from get3d_model.data.manifest import read_manifest
from get3d_model.data.parts import Shard
from get3d_model.data.remote import pull_dataset
from get3d_model.data.verify import verify_dataset
from get3d_model.errors import InputError
from tests.components.render_helpers import render_in_process, save_fan

OPTIONS = ("--views", "2", "--resolution", "16", "--supersample", "1", "--workers", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("GET3D_DATA_CACHE", str(tmp_path / "cache"))
    yield from render_in_process(monkeypatch)
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    for number in range(6):
        save_fan(tmp_path / f"meshes/class{number % 2}/fan{number}.glb", number)
    (tmp_path / "meshes/train.txt").write_text("fan0\nfan1\nfan2\nfan3\n")
    (tmp_path / "meshes/val.txt").write_text("fan4\nfan5\n")
    return tmp_path / "meshes"


@pytest.fixture
def address(meshes: Path) -> str:
    fsspec.filesystem("memory").put(f"{meshes}/", "/bucket/meshes/", recursive=True)
    return "memory://bucket/meshes"


def render(*arguments: str | Path) -> None:
    parser = argparse.ArgumentParser()
    render_main.add_arguments(parser)
    render_main.run(parser.parse_args([*map(str, arguments), *OPTIONS]))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_address_to_address_is_what_a_folder_gives(meshes: Path, address: str, tmp_path: Path) -> None:
    render(meshes, tmp_path / "local")
    render(address, "memory://bucket/set")
    pull_dataset("memory://bucket/set", tmp_path / "back")
    assert content(tmp_path / "back") == content(tmp_path / "local")
    assert read_manifest(tmp_path / "back").splits["val"] == ["class0-fan4", "class1-fan5"]


def test_parts_fetch_their_own_meshes_and_are_merged_where_they_lie(address: str, tmp_path: Path) -> None:
    for index in range(2):
        folder = fetch_meshes(address, Shard(index, 2))
        sizes = {mesh.shape_id: mesh.path.stat().st_size for mesh in find_meshes(folder)}
        assert (
            all((size > 0) >= Shard(index, 2).owns(name) for name, size in sizes.items()) and len(sizes) == 6
        )
        if index == 0:
            assert any(size == 0 for size in sizes.values())
        render(address, "memory://bucket/set", "--shard", f"{index}/2")
    store = fsspec.filesystem("memory")
    before = {path: store.cat_file(path) for path in store.find("/bucket/set") if path.endswith(".tar")}
    parser = argparse.ArgumentParser()
    data_main.add_arguments(parser)
    data_main.run(parser.parse_args(["merge", "memory://bucket/set"]))
    assert {
        path: store.cat_file(path) for path in store.find("/bucket/set") if path.endswith(".tar")
    } == before
    pull_dataset("memory://bucket/set", tmp_path / "back")
    assert not list(verify_dataset(tmp_path / "back"))
    assert len(read_manifest(tmp_path / "back").shapes) == 6
    assert (tmp_path / "back/splits/val.txt").read_text() == "class0-fan4\nclass1-fan5\n"


def test_only_what_has_changed_is_fetched_again(address: str, monkeypatch) -> None:
    store = fsspec.filesystem("memory")
    first = content(fetch_meshes(address, Shard()))
    fetched: list[str] = []
    get = type(store).get_file
    monkeypatch.setattr(
        type(store), "get_file", lambda self, path, *rest: (fetched.append(path), get(self, path, *rest))
    )
    assert content(fetch_meshes(address, Shard())) == first and not fetched
    store.pipe_file("/bucket/meshes/class0/fan0.glb", first["class1/fan5.glb"])
    store.rm_file("/bucket/meshes/class1/fan1.glb")
    second = content(fetch_meshes(address, Shard()))
    assert [path.rpartition("/")[2] for path in fetched] == ["fan0.glb"]
    assert second["class0/fan0.glb"] == first["class1/fan5.glb"] and "class1/fan1.glb" not in second


def test_what_is_refused(address: str, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/evil/a/../../b.glb", b"x")
    store.pipe_file("/bucket/file.txt", b"x")
    with pytest.raises(InputError, match="does not exist"):
        fetch_meshes("memory://bucket/nothing", Shard())
    with pytest.raises(InputError, match="is a file"):
        fetch_meshes("memory://bucket/file.txt", Shard())
    with pytest.raises(InputError, match="outside of the folder"):
        fetch_meshes("memory://bucket/evil", Shard())
    with pytest.raises(InputError, match="no part"):
        merge_at("memory://bucket/meshes")
    with pytest.raises(InputError, match="install the driver"):
        fetch_meshes("nosuch://bucket/meshes", Shard())
    assert not (tmp_path / "b.glb").exists()
