"""What `make demo` does before the pipeline starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from get3d_model.config import load_config
from get3d_model.errors import InputError
from pipelines import demo


@pytest.fixture
def params(tmp_path: Path, repository_root: Path) -> Path:
    return Path(shutil.copy(repository_root / "params.yaml", tmp_path / "params.yaml"))


def test_another_mesh_folder_changes_one_line(params: Path, tmp_path: Path) -> None:
    before = params.read_text().splitlines()
    folder = tmp_path / "my meshes: new"
    folder.mkdir()
    demo.set_mesh_folder(params, str(folder))
    after = params.read_text().splitlines()
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1 and changed[0][0] == "  path: data/meshes"
    assert after[0].startswith("# ")
    assert load_config(params).meshes.path == str(folder)
    demo.set_mesh_folder(params, "data/meshes")
    assert params.read_text().splitlines() == before


def test_nothing_to_change_leaves_the_file_alone(params: Path) -> None:
    before = (params.read_bytes(), params.stat().st_mtime_ns)
    demo.set_mesh_folder(params, "data/meshes")
    assert (params.read_bytes(), params.stat().st_mtime_ns) == before


def test_a_missing_folder(params: Path, tmp_path: Path) -> None:
    before = params.read_bytes()
    (tmp_path / "file").touch()
    for missing in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(InputError, match=f"MESHES={missing}: no such folder; give a folder"):
            demo.set_mesh_folder(params, str(missing))
    assert params.read_bytes() == before


def test_a_failed_pipeline_is_one_line(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(params.parent)
    monkeypatch.setattr(demo.sys, "executable", "/bin/false")
    assert demo.main([]) == 2
    assert capsys.readouterr().err.startswith("demo: dvc repro did not finish")
    assert demo.main(["--meshes", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
