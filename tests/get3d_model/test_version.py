"""The package's version with and without its metadata."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from get3d_model.version import DISTRIBUTION, SOURCE_TREE, UNKNOWN, package_version

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
