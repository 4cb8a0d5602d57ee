"""A data set that is read from a store and copied to local disk meanwhile: in memory, as files, and in a real S3 server."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.preflight import preflight
from get3d_model.data.remote import push_dataset
from get3d_model.data.shard_source import ShardSource
from get3d_model.data.staged_source import StagedSource
from get3d_model.errors import InputError

BIG = 1 << 40


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """A server of the S3 protocol in this process."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["memory", "file", "folder", "s3"])
def url(request, tmp_path, shards, monkeypatch) -> Iterator[str]:
    """Where the data set of `shards` is."""
    if request.param == "s3":
        # One with the addresses and keys of another test may be there.
        pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
        endpoint = request.getfixturevalue("s3_server")
        for name, value in (
            ("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        # Servers of one process hold the same buckets.
        bucket = f"bucket-{uuid.uuid4().hex}"
        fsspec.filesystem("s3").mkdir(bucket)
        push_dataset(shards, f"s3://{bucket}/sets/one")
        yield f"s3://{bucket}/sets/one"
    elif request.param == "memory":
        push_dataset(shards, f"memory://sets/{tmp_path.name}")
        yield f"memory://sets/{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()
    elif request.param == "file":
        push_dataset(shards, f"file://{tmp_path}/store/set")
        yield f"file://{tmp_path}/store/set"
    else:
        yield str(shards)


def pixels(source: ShardSource | StagedSource) -> list[bytes]:
    return [source.read_png(index) for index in range(len(source.table))]


@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_a_bucket_that_is_not_there_is_not_made(url: str, shards: Path) -> None:
    with pytest.raises(
        InputError, match=r"s3://no-such-bucket/set: .*bucket does not exist; check the address"
    ):
        push_dataset(shards, "s3://no-such-bucket/set")
    assert not fsspec.filesystem("s3").exists("s3://no-such-bucket")


def test_the_same_images_from_afar_and_when_copied(url: str, shards: Path, tmp_path: Path) -> None:
    expected = ShardSource(shards)
    afar = StagedSource(url, tmp_path / "cache", cache_bytes=0)
    assert pixels(afar) == pixels(expected) and afar.wait(10) and afar.staged == 0
    np.testing.assert_array_equal(afar.table.rotation_deg_N, expected.table.rotation_deg_N)
    assert afar.describe(0) == f"{url}/shards/000000.tar:cube_000.png"
    said: list[str] = []
    near = StagedSource(url, tmp_path / "cache", BIG, say=said.append)
    assert near.wait(10) and near.staged == len(near.manifest.shards) == 3
    assert said[0].startswith(f"reading {url}: 3 shards") and said[1] == f"copied 3 shards to {near.path}"
    assert pixels(near) == pixels(expected)
    for stored in near.manifest.shards:
        assert (near.path / stored.file).read_bytes() == (shards / stored.file).read_bytes()
    # A second start finds them there.
    again = StagedSource(url, tmp_path / "cache", BIG, say=said.append)
    assert again.staged == 3 and again.wait(10) and said[-1] == f"copied 0 shards to {near.path}"


class Counting:
    """A memory file system whose whole files come only when `open_gate` is set; counts bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.ranges, self.whole = threading.Event(), 0, []
        kind = type(fsspec.filesystem("memory"))
        get_file, cat_file = kind.get_file, kind.cat_file

        def get(store, source, target, **kwargs):
            assert self.gate.wait(20)
            self.whole.append(source)
            return get_file(store, source, target, **kwargs)

        def cat(store, path, start=None, end=None, **kwargs):
            self.ranges += start is not None
            return cat_file(store, path, start=start, end=end, **kwargs)

        monkeypatch.setattr(kind, "get_file", get)
        monkeypatch.setattr(kind, "cat_file", cat)


@pytest.fixture
def memory(shards, tmp_path) -> Iterator[str]:
    push_dataset(shards, f"memory://sets/{tmp_path.name}")
    yield f"memory://sets/{tmp_path.name}"
    fsspec.filesystem("memory").store.clear()


def test_images_are_there_before_their_shards(
    memory: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    source = StagedSource(memory, tmp_path / "cache", BIG)
    expected = pixels(ShardSource(shards))
    assert pixels(source) == expected and counting.ranges == len(expected)
    assert counting.whole == [] and source.staged == 0
    counting.gate.set()
    assert source.wait(10) and len(counting.whole) == 3
    assert pixels(source) == expected and counting.ranges == len(expected), "nothing more from afar"


def test_the_cache_is_bounded_and_shared(memory: str, shards: Path, tmp_path: Path) -> None:
    sizes = [(shards / f"shards/{i:06d}.tar").stat().st_size for i in range(3)]
    cache = tmp_path / "cache"
    one = StagedSource(memory, cache, sizes[0] + sizes[1] + sizes[2] - 1)
    assert one.wait(10) and one.staged == 2
    assert pixels(one) == pixels(ShardSource(shards))
    one.close()
    shutil.rmtree(cache)
    # Two processes of a machine copy every shard once.
    halves = [StagedSource(memory, cache, BIG, (part, 2)) for part in range(2)]
    assert all(half.wait(10) for half in halves)
    assert [half.staged for half in halves] == [3, 3]
    # Another data set takes the place of one that nobody uses, not of one in use.
    other = tmp_path / "other"
    shutil.copytree(shards, other)
    (other / "manifest.json").write_text((other / "manifest.json").read_text() + "\n")
    second = StagedSource(str(other), cache, BIG)
    assert halves[0].path.is_dir()
    for half in halves:
        half.close()
    StagedSource(str(other), cache, BIG)
    assert not halves[0].path.exists() and second.path.is_dir()


def test_a_cleared_cache_costs_nothing_but_time(memory: str, shards: Path, tmp_path: Path) -> None:
    source = StagedSource(memory, tmp_path / "cache", BIG)
    assert source.wait(10)
    shutil.rmtree(source.path / "shards")
    assert pixels(source) == pixels(ShardSource(shards))


def test_damage_and_leftovers(memory: str, tmp_path: Path) -> None:
    store, root = fsspec.core.url_to_fs(memory)
    good = store.cat_file(f"{root}/shards/000001.tar")
    with store.open(f"{root}/shards/000001.tar", "wb") as handle:
        handle.write(good[:-1] + b"x")
    source = StagedSource(memory, tmp_path / "cache", BIG)
    assert source.wait(10)
    with pytest.raises(InputError, match=r"shards/000001.tar is not the file that its manifest describes"):
        source.read_png(0)
    assert not (source.path / "shards/000001.tar").exists()
    source.close()
    # What a killed process was copying goes; what a living one is copying stays.
    with store.open(f"{root}/shards/000001.tar", "wb") as handle:
        handle.write(good)
    dead = source.path / "shards" / ".000001.999999999.tmp.tar"
    alive = source.path / "shards" / f".000002.{os.getppid()}.tmp.tar"
    for path in (dead, alive):
        path.write_bytes(b"half")
    again = StagedSource(memory, tmp_path / "cache", BIG)
    assert again.wait(10) and again.staged == 3
    assert not dead.exists() and alive.exists()


def test_a_full_disk_and_a_store_with_hiccups(
    memory: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("get3d_model.data.staged_source._FIRST_PAUSE_S", 0.001)
    kind = type(fsspec.filesystem("memory"))
    cat_file, refused = kind.cat_file, []

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def hiccup(store, path, start=None, end=None, **kwargs):
        if start is not None and len(refused) < 2:
            refused.append(path)
            raise OSError("slow down")
        return cat_file(store, path, start=start, end=end, **kwargs)

    monkeypatch.setattr(kind, "get_file", full)
    monkeypatch.setattr(kind, "cat_file", hiccup)
    said: list[str] = []
    source = StagedSource(memory, tmp_path / "cache", BIG, say=said.append)
    assert source.wait(10)
    assert "No space left on device" in said[-1] and "going on without more copies" in said[-1]
    assert pixels(source) == pixels(ShardSource(shards)) and len(refused) == 2
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(InputError, match="cannot be read"):
        source.read_png(0)


def test_other_processes_can_read(memory: str, shards: Path, tmp_path: Path) -> None:
    source = StagedSource(str(shards), tmp_path / "cache", 0)
    assert pixels(pickle.loads(pickle.dumps(source))) == pixels(ShardSource(shards))


def test_it_is_a_data_set_like_any_other(memory: str, shards: Path, tmp_path: Path) -> None:
    source = StagedSource(memory, tmp_path / "cache", 0)
    summary, direct = preflight(source, resolution=16), preflight(shards, resolution=16)
    assert (summary.images, summary.split_images) == (direct.images, direct.split_images)
    assert summary.mean_coverage == direct.mean_coverage
    images, expected = RenderedDataset(source, "train"), RenderedDataset(shards, "train")
    assert images.shape_ids == expected.shape_ids
    assert bool((images.read_batch([0, 5]).rgba_B4HW == expected.read_batch([0, 5]).rgba_B4HW).all())


def test_what_is_no_data_set_in_shards(published: Path, tmp_path: Path) -> None:
    for url, reason in (
        ("memory://void", r"holds no finished data set: it has no manifest.json"),
        ("nosuch://a/b", "install the driver"),
        (str(published), "holds no finished data set"),
    ):
        with pytest.raises(InputError, match=reason):
            StagedSource(url, tmp_path / "cache", BIG)


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_MAX_ATTEMPTS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    started = time.monotonic()
    with pytest.raises(InputError, match="check the address, the credentials") as error:
        StagedSource("s3://nowhere/set", tmp_path / "cache", BIG)
    assert "\n" not in str(error.value) and time.monotonic() - started < 20
