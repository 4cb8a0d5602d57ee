"""`get3d doctor` here, and on machines that lack something."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections import namedtuple

import pytest

from get3d_model.errors import InputError
from pipelines import cli, doctor
from serving import server


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "MISSING" not in "".join(lines)
    named = {line[8:29].strip() for line in lines}
    assert {*doctor.PACKAGES, *doctor.OPTIONAL, "python", "git", "memory", "disk", "triton server"} <= named
    (torch_line,) = (line for line in lines if line.split()[1] == "torch")
    assert torch_line.startswith("ok") and importlib.metadata.version("torch") in torch_line


def report(capsys: pytest.CaptureFixture[str], name: str) -> str:
    """The line about `name` of a report that ends with exit code 2."""
    assert cli.main(["doctor"]) == 2
    output, errors = capsys.readouterr()
    assert errors.startswith("get3d doctor: 1 required item(s) missing") and errors.count("\n") == 1
    (line,) = (line for line in output.splitlines() if line[8:].startswith(name))
    assert line.startswith("MISSING")
    return line


@pytest.mark.parametrize("name", ["kfp", "xatlas", "nvidia-pytriton"])
def test_a_missing_package(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = importlib.metadata.version

    def without(wanted: str) -> str:
        if wanted == name:
            raise importlib.metadata.PackageNotFoundError(wanted)
        return version(wanted)

    monkeypatch.setattr(importlib.metadata, "version", without)
    line = report(capsys, name)
    assert "run `make install`" in line and doctor.PACKAGES[name] in line


def test_a_missing_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: None if name == "git" else which(name))
    assert "apt-get install git" in report(capsys, "git")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**9, 10**9))
    assert "1.0 GB free here; 3 GB are needed" in report(capsys, "disk")


def test_no_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise InputError("no tritonserver; install nvidia-pytriton")

    monkeypatch.setattr(server, "find_triton", missing)
    assert "install nvidia-pytriton" in report(capsys, "triton server")


def test_optional_packages_may_be_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in doctor.OPTIONAL else version(name))
    assert cli.main(["doctor"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line[8:].startswith("kaolin")]
    assert lines and lines[0].startswith("absent") and "build it from source" in lines[0]
