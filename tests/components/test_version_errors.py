"""What ends the recording of a version: one line, nothing recorded, the run's outputs untouched."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from components.version.main import record_version
from get3d_model.errors import InputError
from tests.components.version_project import OUTPUTS, Project, check_version, set_remote, snapshot


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def no_repository(project: Project) -> dict[str, Any]:
    return {"repo": str(project.folder / "nothing.git")}


def unreachable_repository(project: Project) -> dict[str, Any]:
    return {"repo": f"http://someone:secret@127.0.0.1:{closed_port()}/x.git"}


def no_remote(project: Project) -> dict[str, Any]:
    set_remote(project, "[core]\n    analytics = false\n")
    return {"revision": "main"}


def unreachable_ssh(project: Project) -> dict[str, Any]:
    url = f"ssh://u@127.0.0.1:{closed_port()}/store"
    set_remote(project, f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n")
    return {"revision": "main"}


def unreachable_s3(project: Project) -> dict[str, Any]:
    # Five attempts, each twice as long after the one before, are for real networks.
    os.environ["AWS_MAX_ATTEMPTS"] = "1"
    address = f"http://127.0.0.1:{closed_port()}"
    settings = f"url = s3://bucket/x\n    endpointurl = {address}\n    access_key_id = a\n    secret_access_key = b\n"
    set_remote(project, f"[core]\n    remote = store\n['remote \"store\"']\n    {settings}")
    return {"revision": "main"}


def gone(project: Project) -> dict[str, Any]:
    shutil.rmtree(project.run / "outputs/train")
    return {}


def empty(project: Project) -> dict[str, Any]:
    shutil.rmtree(project.run / "outputs/train")
    (project.run / "outputs/train").mkdir()
    return {}


def link_to_a_folder(project: Project) -> dict[str, Any]:
    (project.run / "outputs/train/latest").symlink_to(project.run / "data", target_is_directory=True)
    return {}


def link_to_nothing(project: Project) -> dict[str, Any]:
    (project.run / "outputs/train/latest").symlink_to("nowhere")
    return {}


def pipe(project: Project) -> dict[str, Any]:
    os.mkfifo(project.run / "outputs/train/pipe")
    return {}


def no_text(project: Project) -> dict[str, Any]:
    (project.folder / "params.bin").write_bytes(b"\xff\xfe")
    return {"params": project.folder / "params.bin"}


def with_outputs(*more: str) -> Callable[[Project], dict[str, Any]]:
    return lambda project: {
        "outputs": (*project.request().outputs, *(m.format(run=project.run) for m in more))
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_repository, ["--repo", "nothing.git", "cannot be cloned"]),
        (unreachable_repository, ["127.0.0.1", "cannot be cloned"]),
        (lambda p: {"revision": "0" * 40}, ["--revision", "000", "no such commit, branch or tag"]),
        (lambda p: {"revision": "--all"}, ["--revision --all", "no such commit"]),
        (lambda p: {"run_id": "a/../b"}, ["--run-id", "cannot name a branch"]),
        (lambda p: {"run_id": "-x"}, ["--run-id", "cannot name a branch"]),
        (lambda p: {"remote": "stroe"}, ["DVC remote stroe", "known are: store"]),
        (no_remote, ["no default DVC remote", "dvc remote add"]),
        (unreachable_ssh, ["DVC remote store (ssh://", "untouched", "again"]),
        (unreachable_s3, ["DVC remote store (s3://bucket/x)", "untouched", "again"]),
        (gone, ["outputs/train", "is not there"]),
        (empty, ["outputs/train", "is empty"]),
        (link_to_a_folder, ["outputs/train/latest is a link to a folder"]),
        (link_to_nothing, ["outputs/train/latest is a link to nothing"]),
        (pipe, ["outputs/train/pipe is neither a file nor a folder"]),
        (no_text, ["--params", "is no params file"]),
        (with_outputs("outputs/trian={run}"), ["outputs/trian", "did you mean outputs/train"]),
        (with_outputs("/etc=/etc"), ["'/etc' is no path inside the repository"]),
        (with_outputs("outputs/train={run}"), ["outputs/train twice"]),
        (lambda p: {"outputs": (str(p.folder / "nowhere"),)}, ["nowhere", "no such folder"]),
        (
            lambda p: {"outputs": (str(p.run), f"{OUTPUTS[2]}={p.run}")},
            ["is a folder, and stage evaluate makes a file"],
        ),
        (lambda p: {"without": ("tarin",)}, ["--without tarin", "render, train, evaluate"]),
        (lambda p: {"without": ("train",)}, ["outputs/train", "left out by --without"]),
        (lambda p: {"params": p.folder / "no.yaml"}, ["--params", "no.yaml", "cannot be read"]),
        (lambda p: {"params": p.run / "data/rendered/shards/1.tar"}, ["--params", "is no params file"]),
        (lambda p: {"changes": ("x",)}, ["--set x", "SECTION.NAME=VALUE"]),
        (lambda p: {"outputs": ("data/rendered=dvc://x",)}, ["dvc://REPO@REVISION:PATH"]),
    ],
)
def test_mistakes_end_in_one_line(
    change: Callable[[Project], dict[str, Any]],
    words: list[str],
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "")  # restored afterwards, whatever it becomes
    request = project.request(**change(project))
    before = snapshot(project.run)
    with pytest.raises(InputError) as caught:
        record_version(request)
    message = str(caught.value)
    assert "\n" not in message and "secret" not in message
    for word in words:
        assert word in message
    assert project.branches() == [] and snapshot(project.run) == before


def test_a_name_that_is_not_utf8(project: Project) -> None:
    (project.run / os.fsdecode(b"outputs/train/\xff")).write_text("x")
    with pytest.raises(InputError, match="the name is not UTF-8"):
        record_version(project.request())


def test_a_full_disk_is_named(project: Project) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write in the same place."""
    import resource

    (project.run / "outputs/train/model").write_bytes(os.urandom(3_000_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written or read \(File too large\); make space"):
            record_version(project.request())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert project.branches() == []
    record_version(project.request())
    check_version(project.bare, "runs/a-1", project.folder)
