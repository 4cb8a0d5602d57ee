"""`get3d monitor` where something is missing, and its webhook; the servers themselves: tests/e2e/test_monitoring.py."""

from __future__ import annotations

import json
import shutil
import socket
import urllib.request
from pathlib import Path

import pytest
import yaml

from pipelines import cli, monitor
from tests.components.remote_servers import free_port


def test_programs_that_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: None)
    assert cli.main(["monitor", "--folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "run: apt-get install --no-install-recommends prometheus " in error


def test_a_port_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: "/bin/false")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["monitor", "--folder", str(tmp_path), "--prometheus-port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in error and "choose another --prometheus-port" in error


def test_a_server_that_ends_at_once_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: "/bin/false")
    ports = [
        word
        for name in ("prometheus", "alertmanager", "pushgateway", "webhook")
        for word in (f"--{name}-port", "0")
    ]
    arguments = ["--folder", str(tmp_path), "--serving", "a:1, b:2", "--probe", "", *ports]
    assert cli.main(["monitor", *arguments]) == 2
    assert " has ended (exit code 1)" in capsys.readouterr().err
    (targets,) = yaml.safe_load((tmp_path / "targets" / "serving.yml").read_text())
    assert targets == {"targets": ["a:1", "b:2"]}
    assert yaml.safe_load((tmp_path / "targets" / "probe.yml").read_text()) == [{"targets": []}]


def test_alerts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    alerts: list[dict[str, object]] = []
    port = free_port()
    alert = {
        "status": "firing",
        "labels": {"alertname": "Get3dModelDead"},
        "annotations": {"summary": "dead", "runbook_url": "docs/runbook.md#get3dmodeldead"},
    }
    with monitor._receiver(port, alerts):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/alerts", json.dumps({"alerts": [alert]}).encode(), method="POST"
        )
        assert urllib.request.urlopen(request, timeout=5).status == 200
    assert alerts == [alert]
    assert capsys.readouterr().out == "FIRING Get3dModelDead: dead (docs/runbook.md#get3dmodeldead)\n"
