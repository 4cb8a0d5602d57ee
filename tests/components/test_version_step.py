"""What a pipeline run hands to `get3d version`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.version import main, step
from get3d_model.config import config_from_dict, load_config
from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """The parsed command lines; nothing is recorded. The params file is gone afterwards and so is read here."""
    seen: list[argparse.Namespace] = []

    def fake(words: list[str]) -> int:
        parser = argparse.ArgumentParser()
        main.add_arguments(parser)
        args = parser.parse_args(words)
        args.values = yaml.safe_load(args.params.read_text())
        write_json_atomic(args.out / main.VERSION_FILE, {"branch": f"runs/{args.run_id}"})
        seen.append(args)
        return 0

    monkeypatch.setattr(main, "main", fake)
    return seen


def record(folder: Path, meshes: Path, repository: Path | None) -> dict[str, Any]:
    for name in ("set", "training", "evaluation"):
        (folder / name).mkdir()
    (folder / "pointer.json").write_text(json.dumps({"path": str(folder / "set")}))
    (folder / "params.yaml").write_text("name: x\nmeshes: {path: /volume/cars}\n")
    found = step.outputs(
        str(meshes),
        str(folder / "pointer.json"),
        {"training": str(folder / "training")},
        str(folder / "evaluation"),
        repository and str(repository),
    )
    return step.record("git@host:x.git", "main", "r-1", folder / "params.yaml", found, str(folder / "out"))


def test_procedural_vehicles_and_a_promoted_model(
    tmp_path: Path, handed_over: list[argparse.Namespace]
) -> None:
    meshes, repository = tmp_path / "vehicles-0123", tmp_path / "repository"
    meshes.mkdir()
    repository.mkdir()
    assert record(tmp_path, meshes, repository)["branch"] == "runs/r-1"
    (args,) = handed_over
    assert args.without == [] and args.set == ["meshes.path=data/meshes"]
    assert f"data/meshes={meshes}" in args.outputs
    assert f"outputs/repository={repository}" in args.outputs
    # Every setting that dvc.yaml may name is there.
    config_from_dict(args.values, "params")
    assert args.values["render"]["views"] == load_config(tmp_path / "params.yaml").render.views


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_own_meshes_and_a_held_model(
    suffix: str, tmp_path: Path, handed_over: list[argparse.Namespace]
) -> None:
    meshes = tmp_path / f"cars{suffix}"
    if suffix:
        meshes.write_bytes(b"")
    else:
        meshes.mkdir()
    record(tmp_path, meshes, None)
    (args,) = handed_over
    assert args.without == ["meshes", "export"]
    assert args.set == [f"meshes.path=data/own-meshes{suffix}"]
    assert f"data/own-meshes{suffix}={meshes}" in args.outputs


def test_a_data_set_that_is_gone(tmp_path: Path, handed_over: list[argparse.Namespace]) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"path": str(tmp_path / "nothing")}))
    with pytest.raises(InputError, match="is gone"):
        step.outputs(str(tmp_path), str(tmp_path / "p.json"), {"training": "x"}, "y", None)
    assert handed_over == []
