"""Versions in the remotes that clusters have: SSH (a real sshd) and S3 (moto's server; a real one in tests/e2e)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.data_pointer import DataPointer, local_folder
from components.version.main import record_version
from get3d_model.errors import InputError
from tests.components.remote_servers import Server, moto_server, ssh_server
from tests.components.version_project import check_version, git, make_project


def check_remote(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version and its clone; the keys come from a file outside of the repository, as a mounted secret."""
    folder.mkdir()
    project = make_project(folder, server.url, server.settings)
    with pytest.raises(InputError, match=r"DVC remote store \(.*untouched, run the same command again"):
        record_version(project.request())
    assert project.branches() == []
    (folder / "secret").mkdir()
    (folder / "secret" / "config").write_text(server.secrets)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(folder / "secret"))
    version = record_version(project.request())
    assert version.created and not record_version(project.request()).created
    assert project.commits("runs/a-1") == 1
    monkeypatch.delenv("DVC_GLOBAL_CONFIG_DIR")
    check_version(project.bare, "runs/a-1", folder, server.secrets)
    assert "KEY" not in git(project.bare, "show", "runs/a-1").upper().replace("KEYFILE", "")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(folder / "secret"))
    pointer = DataPointer(str(project.bare), "runs/a-1", "data/rendered")
    fetched = local_folder(pointer, folder / "cache")
    for path in (project.run / "data/rendered").rglob("*"):
        if path.is_file():
            copy = fetched / path.relative_to(project.run / "data/rendered")
            assert copy.read_bytes() == path.read_bytes()


def test_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Keys of the machine must not let us in.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with ssh_server(tmp_path / "sshd") as server:
        check_remote(server, tmp_path / "project", monkeypatch)


def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with moto_server() as server:
        check_remote(server, tmp_path / "project", monkeypatch)
