"""Served repositories in object stores: a real S3 protocol (moto's server), and what a folder does the same."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from components.deploy import store as store_module
from components.deploy.served import STATE_FILE, Pending, ServedRepository
from components.deploy.store import LOCK_FILE, FolderStore, LeaseLost, ObjectStore, Store, open_store
from get3d_model.errors import InputError
from serving.model_config import served_versions, with_limits, with_served_versions
from serving.repository import CARD_FILE, Limits, render_config
from tests.components.deploy_helpers import write_export


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a real S3 server in this process."""
    moto = pytest.importorskip("moto.server")
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="models")
    yield "s3://models"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "served"))
    return open_store(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}")


def test_files_and_folders(store: Store, tmp_path: Path) -> None:
    folder = write_export(tmp_path / "export", 1) / "get3d" / "1"
    assert store.read("get3d/config.pbtxt") is None and store.folders("get3d") == []
    store.write("get3d/config.pbtxt", b"one")
    store.write("get3d/config.pbtxt", b"two")
    assert store.read("get3d/config.pbtxt") == b"two"
    store.upload(folder, "get3d/7")
    store.upload(write_export(tmp_path / "other", 2) / "get3d" / "1", "get3d/70")
    assert store.folders("get3d") == ["7", "70"]
    for path in folder.iterdir():
        assert store.read(f"get3d/7/{path.name}") == path.read_bytes()
    store.copy("get3d/7", "get3d_candidate/7")
    store.copy("get3d/7", "get3d_candidate/7")
    assert store.read(f"get3d_candidate/7/{CARD_FILE}") == (folder / CARD_FILE).read_bytes()
    store.remove("get3d/7")
    assert store.folders("get3d") == ["70"], "a longer name that begins alike stays"
    assert store.read(f"get3d_candidate/7/{CARD_FILE}") is not None
    store.remove("get3d_candidate")
    store.remove("get3d/config.pbtxt")
    store.remove("nothing")
    assert store.folders("") == ["get3d"] and store.read("get3d/config.pbtxt") is None


def test_versions_and_the_switch(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, config = ServedRepository(store), render_config(8)
    assert served.snapshot().current is None
    first = write_export(tmp_path / "one", 1) / "get3d" / "1"
    second = write_export(tmp_path / "two", 2) / "get3d" / "1"
    assert served.add_version(first, 5, config) == 5, "the exported number, where it is free"
    assert served.add_version(first, 5, config) == 5, "the same content is not uploaded again"
    served.serve([5])
    assert served.add_version(second, 1, config) == 6
    assert served.snapshot().served == [5], "what is only uploaded is not served"
    served.serve([5, 6])
    assert (served.snapshot().current, served.snapshot().previous) == (6, 5)
    # A version without its card is still being uploaded.
    store.remove(f"get3d/6/{CARD_FILE}")
    assert served.versions() == [5]
    served.remove_version(6)
    assert served.add_version(write_export(tmp_path / "three", 3) / "get3d" / "1", 6, config) == 7
    served.set_pending(Pending("deploy", 7))
    assert ServedRepository(store).pending() == Pending("deploy", 7)
    for number in range(130):
        served.record({"number": number}, settled=True)
    state = json.loads(store.read("deploy_state.json"))
    assert served.pending() is None and [event["number"] for event in state["history"]] == list(
        range(30, 130)
    )


def test_the_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(store_module, "SETTLE_S", 0.1)
    message = rf"another deploy is under way \(.* process {os.getpid()} "
    with store.lock(), pytest.raises(InputError, match=message), open_store(store.location).lock():
        pass
    with open_store(store.location).lock():
        pass


def test_a_killed_owner_of_a_lease_is_replaced(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LEASE_S", 1.5)
    monkeypatch.setattr(store_module, "SETTLE_S", 0.1)
    store = ObjectStore(f"{s3}/lease")
    store.write(LOCK_FILE, json.dumps({"owner": "token host process 1", "beat": 3}).encode())
    start = time.monotonic()
    with store.lock():
        assert time.monotonic() - start > 1.0, "it was watched first"
    assert store.read(LOCK_FILE) is None


def test_a_lease_that_was_taken_over_is_not_taken_back(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that stood still, such as one whose machine was paused."""
    monkeypatch.setattr(store_module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(store_module, "SETTLE_S", 0.1)
    store, theirs = ObjectStore(f"{s3}/taken"), json.dumps({"owner": "another", "beat": 0}).encode()
    with store.lock():
        store.write(LOCK_FILE, theirs)
        time.sleep(0.3)
        # A beat that had begun may have come after it.
        if store.read(LOCK_FILE) != theirs:
            store.write(LOCK_FILE, theirs)
            time.sleep(0.3)
        assert store.read(LOCK_FILE) == theirs
        for change in (
            lambda: store.write("get3d/config.pbtxt", b"ours"),
            lambda: store.remove("get3d/1"),
            lambda: store.copy("get3d/1", "get3d_candidate/1"),
            lambda: store.upload(Path(__file__).parent, "get3d/2"),
        ):
            with pytest.raises(LeaseLost, match="another deploy has begun"):
                change()
    assert store.read(LOCK_FILE) == theirs and store.folders("get3d") == []
    store.write("get3d/config.pbtxt", b"outside of a lock nobody asks")


def test_leftovers_of_a_killed_upload_go(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for name in (
        "get3d/.upload-7/x",
        "get3d_candidate/.upload-7/x",
        "get3d/.config.1.tmp.pbtxt",
        ".state.1.tmp.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with store.lock():
        left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != LOCK_FILE]
    assert left == []


def test_an_older_version_keeps_its_own_batch_and_queue() -> None:
    newest = render_config(8, Limits(queue_size=99, queue_timeout_s=1.5), instances=3)
    assert with_limits(newest, 8, 99, 1.5) == newest
    parsed = text_format.Parse(with_limits(newest, 2, 7, 0.25), model_config_pb2.ModelConfig())
    policy = parsed.dynamic_batching.default_queue_policy
    assert parsed.max_batch_size == 2 and parsed.instance_group[0].count == 3
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 250_000)


def test_which_versions_a_configuration_serves() -> None:
    config = render_config(8)
    assert served_versions(config, [1, 2, 10]) == [2, 10], "as exported: the newest two"
    assert served_versions(with_served_versions(config, [10, 1]), [1, 2, 10]) == [1, 10]
    assert served_versions(with_served_versions(config, [3]), [1, 2]) == []
    renamed = with_served_versions(config, [3], "other")
    assert 'name: "other"' in renamed and "max_queue_size" in renamed
    assert served_versions('name: "x"', [1, 2]) == [2], "Triton's default"
    assert served_versions("version_policy { all {} }", [2, 1]) == [1, 2]
    with pytest.raises(InputError, match=r"config\.pbtxt cannot be read"):
        served_versions("nonsense {", [1])


def test_trouble_with_the_store_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="install the driver"):
        open_store("nosuch://bucket")
    (tmp_path / "deploy_state.json").write_text("{")
    with pytest.raises(InputError, match=r"deploy_state\.json: is damaged; remove it"):
        ServedRepository(FolderStore(tmp_path)).pending()


@pytest.mark.parametrize("trouble", ["no credentials", "no server"])
def test_an_object_store_that_cannot_be_used_is_one_line(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the driver's library that are no OSError."""
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    if trouble == "no server":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = ObjectStore("s3://models/x")
    with pytest.raises(InputError, match=r"^s3://models/x: .*; check the address, the credentials") as caught:
        store.read("get3d/config.pbtxt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["{", "[]", "[1]", '{"history": 3}', '{"pending": {"x": 3}}', '{"last_version": "a"}']
)
def test_a_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    served = ServedRepository(FolderStore(tmp_path))
    with pytest.raises(InputError, match=rf"{STATE_FILE}: is damaged; remove it"):
        served.pending()


def test_the_state_keeps_what_is_pending(tmp_path: Path) -> None:
    served = ServedRepository(FolderStore(tmp_path))
    for pending in (Pending("deploy", 4), Pending("rollback", 3), None):
        served.set_pending(pending)
        assert served.pending() == pending
    served.set_pending(Pending("deploy", 5))
    served.record({"outcome": "deployed"}, settled=True)
    assert served.pending() is None
