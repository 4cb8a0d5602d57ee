"""Data sets in a store: in memory, and as files by fsspec's own local driver."""

import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from get3d_model.data.manifest import read_manifest, write_manifest
from get3d_model.data.remote import pull_dataset, push_dataset
from get3d_model.errors import InputError


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    yield f"memory://sets/{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/store/set"
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(shards, url, tmp_path):
    expected = _files(shards)
    assert push_dataset(shards, url) == len(expected)
    assert push_dataset(shards, url) == 0
    assert pull_dataset(url, tmp_path / "back") == len(expected)
    assert _files(tmp_path / "back") == expected
    # A copy that was stopped continues: only what is missing, and the manifest.
    (tmp_path / "back/shards/000001.tar").unlink()
    (tmp_path / "back/manifest.json").unlink()
    (tmp_path / "back/shards/000009.tar").write_bytes(b"left over")
    assert pull_dataset(url, tmp_path / "back") == 2
    assert _files(tmp_path / "back") == expected


def test_the_manifest_comes_last_and_a_stopped_push_continues(shards, url, tmp_path, monkeypatch):
    store, root = fsspec.core.url_to_fs(url)
    order, original = [], type(store).put_file

    def put(self, source, target, **kwargs):
        if target.endswith("000002.tar") and "000002.tar" not in order:
            order.append("000002.tar")
            raise OSError(28, "No space left on device")
        order.append(target.rpartition("/")[2])
        return original(self, source, target, **kwargs)

    monkeypatch.setattr(type(store), "put_file", put)
    with pytest.raises(InputError, match="No space left on device"):
        push_dataset(shards, url)
    assert not store.exists(f"{root}/manifest.json")
    with pytest.raises(InputError, match="no finished data set"):
        pull_dataset(url, tmp_path / "back")
    before = list(order)
    push_dataset(shards, url)
    assert order[-1] == "manifest.json"
    assert before[-1] == "000002.tar" and not set(order[len(before) :]) & set(before[:-1])
    pull_dataset(url, tmp_path / "back")
    assert _files(tmp_path / "back") == _files(shards)
    assert push_dataset(shards, url) == 0


def test_another_data_set_replaces_one_and_damage_is_found(shards, url, tmp_path):
    push_dataset(shards, url)
    store, root = fsspec.core.url_to_fs(url)
    with store.open(f"{root}/shards/000009.tar", "wb") as handle:
        handle.write(b"left over")
    push_dataset(shards, url)
    assert not store.exists(f"{root}/shards/000009.tar")
    with store.open(f"{root}/shards/000000.tar", "wb") as handle:
        handle.write(b"damaged")
    with pytest.raises(InputError, match=r"000000.tar is not the file that its manifest describes"):
        pull_dataset(url, tmp_path / "back")
    assert not (tmp_path / "back/manifest.json").exists()
    assert push_dataset(shards, url) > 0  # its size tells that it is another one
    pull_dataset(url, tmp_path / "back")
    assert _files(tmp_path / "back") == _files(shards)


def test_damage_is_not_pushed(shards, url, tmp_path):
    push_dataset(shards, url)
    path, index = shards / "shards/000001.tar", shards / "index.npy"
    sound = path.read_bytes()
    path.write_bytes(sound + bytes(512))
    with pytest.raises(InputError, match=r"000001.tar is not the file that its manifest describes"):
        push_dataset(shards, url)
    path.write_bytes(sound)
    index.write_bytes(b"")
    with pytest.raises(InputError, match=r"index.npy is not the file that its manifest describes"):
        push_dataset(shards, url)
    pull_dataset(url, tmp_path / "back")  # what was there is untouched
    assert (tmp_path / "back/shards/000001.tar").read_bytes() == sound


def test_loose_files_are_not_for_a_store(shards, published, tmp_path):
    manifest = read_manifest(shards)
    write_manifest(published, replace(manifest, shards=[], index=None))
    with pytest.raises(InputError, match="convert --to shards"):
        push_dataset(published, "memory://x")


def test_what_cannot_be_opened(shards, tmp_path):
    for url, reason in (
        ("no-url", "is no URL"),
        ("nosuch://a/b", "install the driver"),
        ("memory://void", "holds no"),
    ):
        with pytest.raises(InputError, match=reason):
            pull_dataset(url, tmp_path / "out")
    shutil.copytree(shards, tmp_path / "unfinished")
    (tmp_path / "unfinished/manifest.json").unlink()
    with pytest.raises(InputError, match=r"has no manifest.json"):
        push_dataset(tmp_path / "unfinished", "memory://x")
