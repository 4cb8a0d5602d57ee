"""dvc.yaml and params.yaml fit each other, the commands and the repository."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.train.curves import CURVES, FOLDER
from get3d_model.config import load_config
from pipelines.cli import build_parser

ROOT = Path(__file__).parent.parent.parent
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def resolve(text: str) -> str:
    """Puts the values of params.yaml in the place of `${...}`; KeyError for one that is not there."""

    def value(match: re.Match[str]) -> str:
        found: Any = PARAMS
        for key in match[1].split("."):
            found = found[key]
        return str(found)

    return re.sub(r"\$\{([^}]*)\}", value, text)


def outputs(stage: dict[str, Any]) -> list[str]:
    items = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return [resolve(item if isinstance(item, str) else next(iter(item))) for item in items]


def commands(stage: str) -> list[argparse.Namespace]:
    found = STAGES[stage]["cmd"]
    parsed = []
    for command in [found] if isinstance(found, str) else found:
        words = shlex.split(resolve(command))
        assert words[0] == "get3d"
        parsed.append(build_parser(words[1]).parse_args(words[1:]))
    return parsed


def arguments(stage: str) -> argparse.Namespace:
    """Of the last command: what stands before it only decides whether it is run."""
    return commands(stage)[-1]


def test_params_are_valid() -> None:
    load_config(ROOT / "params.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_command_that_parses(stage: str) -> None:
    args = arguments(stage)
    produced = {value for value in map(str, vars(args).values())}
    for out in outputs(STAGES[stage]):
        assert any(Path(out) == Path(p) or Path(p) in Path(out).parents for p in produced), (
            f"{out} is not made"
        )


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_exist_or_are_made(stage: str) -> None:
    made = {Path(out) for other in STAGES.values() for out in outputs(other)}
    assert STAGES[stage]["deps"]
    for dependency in map(resolve, STAGES[stage]["deps"]):
        path = Path(dependency)
        is_made = path in made or any(parent in made for parent in path.parents)
        assert is_made or (ROOT / path).exists(), (
            f"{dependency} is neither in the repository nor made by a stage"
        )


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_of_a_stage_exist(stage: str) -> None:
    for name in STAGES[stage].get("params", []):
        assert name in PARAMS, name


def test_the_gate_stands_before_the_export() -> None:
    gate, _ = commands("export")
    assert str(gate.evaluation) == str(arguments("evaluate").out)
    assert f"{gate.evaluation}/gate.json" in STAGES["export"]["deps"]


def test_what_is_shown_is_made() -> None:
    """Metrics, plots and artifacts lie in the outputs of stages."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    made = [Path(out) for stage in STAGES.values() for out in outputs(stage)]
    shown = list(pipeline["metrics"])
    for plot in pipeline["plots"]:
        shown += next(iter(plot.values()))["y"]
    shown += [artifact["path"] for artifact in pipeline["artifacts"].values()]
    for name in shown:
        assert any(out == Path(name) or out in Path(name).parents for out in made), name
    curves = {f"outputs/train/{FOLDER}/{name}.json" for name in CURVES}
    assert curves <= set(shown)
    for plot in pipeline["plots"]:
        for name, columns in next(iter(plot.values()))["y"].items():
            if name in curves:
                assert ([columns] if isinstance(columns, str) else columns) == list(CURVES[Path(name).stem])


def test_a_missing_parameter_is_noticed() -> None:
    assert resolve("--views ${render.views}") == f"--views {PARAMS['render']['views']}"
    with pytest.raises(KeyError):
        resolve("${render.nothing}")


def test_the_stages_pass_each_other_what_they_make() -> None:
    render, train, evaluate, export = map(arguments, ("render", "train", "evaluate", "export"))
    assert str(render.meshes) == str(evaluate.meshes) == PARAMS["meshes"]["path"]
    assert str(render.out) == str(train.data) == str(evaluate.data)
    assert train.out == evaluate.checkpoint == export.checkpoint
    assert render.resolution == PARAMS["model"]["image_resolution"]
    for args in (train, evaluate, export):
        assert args.config == Path("params.yaml")


def test_outputs_are_not_in_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    for stage in STAGES.values():
        for out in outputs(stage):
            assert any(line.strip("/") == Path(out).parts[0] for line in ignored), f"{out} is not ignored"
