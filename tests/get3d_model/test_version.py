"""The package's version with and without its metadata."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from get3d_model.version import (
    COMMIT_VARIABLE,
    DISTRIBUTION,
    SOURCE_TREE,
    UNKNOWN,
    package_version,
    source_commit,
)

PROJECT = tomllib.loads((SOURCE_TREE / "pyproject.toml").read_text())["project"]


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_names_the_distribution_of_this_tree() -> None:
    assert PROJECT["name"] == DISTRIBUTION


@pytest.mark.usefixtures("not_installed")
def test_source_tree_that_is_not_installed() -> None:
    assert package_version() == PROJECT["version"]


@pytest.mark.usefixtures("not_installed")
@pytest.mark.parametrize(
    "text", [None, "not TOML", "[project]\nname = 'another'\nversion = '7'\n", "[tool]\n"]
)
def test_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    assert package_version(tmp_path) == UNKNOWN


def test_interpreter_with_nothing_but_the_source_tree(tmp_path: Path) -> None:
    """No site-packages: what PYTHONPATH alone gives."""
    code = "from get3d_model.version import package_version; print(package_version())"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(SOURCE_TREE)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == PROJECT["version"]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.example")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "of an image")
    for name in ("clean", "changed"):
        git(tmp_path, "init", "-q", name)
        (tmp_path / name / "code.py").write_text("1")
        git(tmp_path / name, "add", "code.py")
        git(tmp_path / name, "commit", "-qm", "first")
        git(tmp_path / name, "tag", "v1")
    (tmp_path / "changed" / "code.py").write_text("2")
    for name, suffix in (("clean", ""), ("changed", "-dirty")):
        assert source_commit(tmp_path / name) == git(tmp_path / name, "rev-parse", "HEAD") + suffix


@pytest.mark.parametrize(("told", "expected"), [("abc", "abc"), ("unknown", None), ("", None), (None, None)])
def test_the_commit_of_an_installed_package(
    tmp_path: Path, told: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder inside of somebody's repository is not that repository's code."""
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "site-packages").mkdir()
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    if told is not None:
        monkeypatch.setenv(COMMIT_VARIABLE, told)
    assert source_commit(tmp_path / "site-packages") == expected
