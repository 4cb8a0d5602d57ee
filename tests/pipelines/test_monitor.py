"""`get3d monitor` where something is missing, and its webhook; the servers themselves: tests/e2e/test_monitoring.py."""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from pipelines import cli, monitor
from tests.components.remote_servers import free_port

ANY_PORTS = [
    w for n in ("prometheus", "alertmanager", "pushgateway", "webhook") for w in (f"--{n}-port", "0")
]


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
    arguments = ["--folder", str(tmp_path), "--serving", "a:1, b:2", "--probe", "", *ANY_PORTS]
    assert cli.main(["monitor", *arguments]) == 2
    assert " has ended (exit code 1)" in capsys.readouterr().err
    (targets,) = yaml.safe_load((tmp_path / "targets" / "serving.yml").read_text())
    assert targets == {"targets": ["a:1", "b:2"]}
    assert yaml.safe_load((tmp_path / "targets" / "probe.yml").read_text()) == [{"targets": []}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--serving", "http://a:8002/metrics"],
            "--serving takes HOST:PORT, several with commas, not 'http://a",
        ),
        (["--training", "a:1,b"], "--training takes HOST:PORT, several with commas, not 'b'"),
        (["--prometheus-port", "3", "--alertmanager-port", "3"], "each needs a port of its own"),
        (["--folder", "FILE"], "is no folder, and a file is in its place"),
        (["--folder", "FILE/below"], "is no folder, and a file is in its place"),
    ],
)
def test_what_would_not_be_scraped_is_said(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: "/bin/false")
    (tmp_path / "FILE").touch()
    number = str(free_port())
    given = [str(tmp_path / word) if word.startswith("FILE") else word.replace("3", number) for word in words]
    assert cli.main(["monitor", "--folder", str(tmp_path / "m"), *ANY_PORTS, *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_a_folder_belongs_to_one_monitor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second would change what the first scrapes, and write the same data."""
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: "/bin/false")
    with open(tmp_path / "lock", "wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert cli.main(["monitor", "--folder", str(tmp_path), *ANY_PORTS]) == 2
    assert f"another get3d monitor uses {tmp_path}; stop it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert cli.main(["monitor", "--folder", str(tmp_path), *ANY_PORTS]) == 2
    assert " has ended (exit code 1)" in capsys.readouterr().err


@pytest.mark.skipif(
    not all(any(map(shutil.which, names)) for names in monitor.PROGRAMS.values()),
    reason="needs Debian's prometheus, prometheus-alertmanager and prometheus-pushgateway",
)
def test_rules_and_targets_of_a_folder_whose_name_is_a_pattern(tmp_path: Path) -> None:
    """The real servers."""
    with monitor.Monitor(tmp_path / "a[1] *", ports=monitor.Ports(0, 0, 0, 0)) as running:
        asked = f"{running.url('prometheus')}/api/v1"
        with urllib.request.urlopen(f"{asked}/rules", timeout=5) as answer:
            assert len(json.load(answer)["data"]["groups"]) > 3
        deadline = time.monotonic() + 30
        jobs: set[str] = set()
        while len(jobs) < 4 and time.monotonic() < deadline:
            with urllib.request.urlopen(f"{asked}/targets", timeout=5) as answer:
                jobs = {target["labels"]["job"] for target in json.load(answer)["data"]["activeTargets"]}
            time.sleep(0.2)
    assert jobs == {"get3d-serving", "get3d-training", "get3d-probe", "get3d-pushgateway"}


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
