"""Bodies of the Kubeflow components around the commands that they call, run as kfp would run them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from components import artifacts
from components.data.component import merge
from components.deploy.step import deploy, keep_metrics, shown
from components.evaluate.component import evaluate
from components.export.component import export
from components.render.component import render
from components.synth.component import prepare_meshes
from components.version.step import outputs, record
from get3d_model.files import write_json_atomic

ROOT = Path(__file__).parents[2]
CONFIG = """
render: {views: 2, resolution: 32, supersample: 1, val_fraction: 0.5}
model: {image_resolution: 32}
"""


def artifact(path: Path, metadata: dict[str, Any] | None = None) -> SimpleNamespace:
    """What kfp gives a component: a path, metadata, and for metrics a way to log them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = SimpleNamespace(path=str(path), metadata={} if metadata is None else metadata)
    found.log_metric = found.metadata.__setitem__
    return found


@pytest.mark.parametrize("shards", [1, 2])
def test_meshes_to_a_data_set_in_any_number_of_jobs(shards: int, tmp_path: Path) -> None:
    made = artifact(tmp_path / "a" / "meshes")
    folder = prepare_meshes.python_func(str(tmp_path / "meshes"), "f", made, synth_count=4)
    assert made.metadata["synthetic"] and len(list(Path(folder).glob("*.glb"))) == 4
    parts = []
    for index in range(shards):
        parts.append(artifact(tmp_path / "a" / str(index)))
        render.python_func(
            folder, "f", str(tmp_path / "set"), f"{index}/{shards}", CONFIG, parts[-1], workers=1
        )
        assert parts[-1].metadata["shard"] == f"{index}/{shards}"
    dataset, metrics, summary = (
        artifact(tmp_path / "a" / name) for name in ("dataset", "metrics", "summary.md")
    )
    merge.python_func(parts, str(tmp_path / "set"), dataset, metrics, summary)
    assert metrics.metadata["images"] == 8 and metrics.metadata["shapes"] == 4
    assert json.loads(Path(dataset.path).read_text()) == dataset.metadata
    text = Path(summary.path).read_text()
    assert text.startswith("# Data set") and "| images | 8 |" in text and "data:image/jpeg;base64," in text


def step_options(name: str, folder: Path) -> set[str]:
    """What the body of a component gives its command."""
    (folder / "set").mkdir()
    write_json_atomic(folder / "data", {"path": str(folder / "set")})
    (folder / "model").mkdir()
    (folder / "model" / "generator_ema.safetensors").touch()
    data, model, other = (artifact(folder / word) for word in ("data", "model", "other"))
    bodies = {
        "render": lambda: render.python_func("meshes", "f", "set", "0/2", CONFIG, other),
        "evaluate": lambda: evaluate.python_func(
            model, data, str(folder), "f", CONFIG, other, other, other, other
        ),
        "export": lambda: export.python_func(model, other, CONFIG, other, other),
    }
    given: list[str] = []

    def called(main: Callable[..., int], *words: object) -> None:
        given.extend(map(str, words))
        raise StopIteration

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(artifacts, "call", called)
        bodies[name]()
    return {word for word in given if word.startswith("--")}


@pytest.mark.parametrize("name", ["render", "evaluate", "export"])
def test_a_step_tells_its_command_what_dvc_tells_it(name: str, tmp_path: Path) -> None:
    """Otherwise the version that a cluster records is not what `dvc repro` would make of it."""
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]["cmd"]
    command = stage if isinstance(stage, str) else stage[-1]
    # A step's repository is new, and so the version is the first without being told.
    assert set(re.findall(r"--[a-z-]+", command)) - {"--version"} <= step_options(name, tmp_path)


def test_bad_input_ends_a_step_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        render.python_func(
            str(tmp_path / "none"), "f", str(tmp_path / "set"), "0/2", CONFIG, artifact(tmp_path / "part")
        )
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("get3d render: ") and "none" in error[-1]


def test_without_servers_nothing_is_deployed_and_it_says_so(tmp_path: Path) -> None:
    result = deploy("repository", "", "", 300, str(tmp_path / "out"))
    assert result["outcome"] == "skipped"
    assert json.loads((tmp_path / "out" / "deploy.json").read_text()) == result
    assert shown({"outcome": "deployed", "reason": None, "replicas": {"a": 1}}) == {"outcome": "deployed"}


def test_metrics_of_what_is_served_are_kept_whole(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "e" / "metrics.json", {"cd_cov": 0.5})
    write_json_atomic(tmp_path / "e" / "metrics_full.json", {"metrics": {}})
    keep_metrics(str(tmp_path / "e"), "")
    keep_metrics(str(tmp_path / "e"), str(tmp_path / "p"), '{"model": "a"}')
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "metrics.json", "metrics_full.json", "record.json",
    ]  # fmt: skip


def test_without_a_repository_no_version_is_recorded_and_it_says_so(tmp_path: Path) -> None:
    result = record("", "", "run", tmp_path / "params.yaml", {}, str(tmp_path / "out"))
    assert result["branch"] == "" and "no git_repository" in result["reason"]


def test_what_a_version_is_made_of(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pointer = tmp_path / "pointer"
    write_json_atomic(pointer, {"path": str(tmp_path / "set")})
    found = outputs(
        "/w/meshes/vehicles-1", str(pointer), {"training": "/w/training/1"}, "/a/evaluation", None
    )
    assert {name: str(path) for name, path in found.items()} == {
        "data/meshes": "/w/meshes/vehicles-1", "data/rendered": str(tmp_path / "set"),
        "outputs/train": "/w/training/1", "outputs/evaluation": "/a/evaluation",
    }  # fmt: skip
    source = f"dvc:///repo@{'a' * 40}:cars"
    found = outputs(source, str(pointer), {"training": "/t"}, "/e", "/a/repository")
    assert found["data/own-meshes"] == source and found["outputs/repository"] == Path("/a/repository")
