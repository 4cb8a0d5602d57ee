"""Fixtures that several files here share."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.components.render_helpers import BOTH, render, save_fan
from tests.components.version_project import Project, make_project


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Made once, because it takes seconds; nobody writes into it."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """A copy with a repository and remote of its own. The remote's path is in the commit, so it is a link there."""
    shutil.copytree(made.bare, tmp_path / "bare.git")
    shutil.copytree(made.run, tmp_path / "run")
    remote = made.folder / "remote"
    remote.unlink(missing_ok=True)
    (tmp_path / "remote").mkdir()
    remote.symlink_to(tmp_path / "remote")
    return replace(made, folder=tmp_path, bare=tmp_path / "bare.git", run=tmp_path / "run")


@pytest.fixture(scope="session")
def fans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five meshes; nothing may write into it."""
    folder = tmp_path_factory.mktemp("good") / "meshes"
    for number, name in enumerate(("ant", "bee", "cow", "sub/dog", "eel")):
        save_fan(folder / f"{name}.glb", number)
    return folder


@pytest.fixture(scope="session")
def fans_rendered(fans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one worker, in both layouts; nothing may write into it."""
    out = tmp_path_factory.mktemp("reference") / "out"
    report = render(fans, out, workers=1, **BOTH)
    assert (report.shapes, report.images, report.rendered, report.up_to_date) == (5, 15, 5, False)
    return out
