"""Versions where it hurts: killed before every single write, and in a real S3 service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.components.test_version_killed import check_killed_at
from tests.components.test_version_remotes import check_remote
from tests.components.version_project import make_project
from tests.e2e.ceph_server import ceph_server

pytestmark = pytest.mark.e2e


def test_killed_before_any_write(tmp_path: Path) -> None:
    """Every third one, because they come in groups of alike."""
    check_killed_at(make_project(tmp_path), lambda total: list(range(1, total + 1, 3)))


def test_a_real_s3_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with ceph_server(tmp_path / "ceph") as server:
        version = subprocess.run(["radosgw", "--version"], capture_output=True, text=True, check=True).stdout
        print(version.strip())
        check_remote(server, tmp_path / "project", monkeypatch)
