"""Validation: what a pipeline run is given is checked at once, and everything gets its folder."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

import components.train.job_spec
import components.validate.main
from components.artifacts import resolve_init_from
from components.validate.main import main, override_lines, with_overrides
from components.validate.meshes import local_meshes, mesh_fingerprint
from get3d_model.errors import InputError
from tests.commands import refusal
from tests.components.version_project import Project


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    return folder


def command(tmp_path: Path, *options: str) -> list[str]:
    return ["--params", "demo", "--workspace", str(tmp_path / "ws"), "--out", str(tmp_path / "out"), *options]


def plan(tmp_path: Path, *options: str) -> dict[str, Any]:
    assert main(command(tmp_path, *options)) == 0
    return json.loads((tmp_path / "out" / "plan.json").read_text())


def test_a_plan_names_everything(tmp_path: Path, meshes: Path) -> None:
    found = plan(
        tmp_path, "--meshes", str(meshes), "--shards", "3", "--run-id", "r-1", "--set=training.r1_gamma=80"
    )
    assert found["shards"] == ["0/3", "1/3", "2/3"]
    assert (found["meshes"], found["synth_count"]) == (str(meshes), 0)
    assert yaml.safe_load(found["params"])["training"]["r1_gamma"] == 80
    assert yaml.safe_load(found["train_config"])["training"]["r1_gamma"] == 80
    assert "training" not in yaml.safe_load(found["render_config"])
    assert Path(found["dataset"]).parent == tmp_path / "ws" / "datasets"
    # The exit handler sees no output of another step.
    assert json.loads((tmp_path / "ws" / "runs" / "r-1" / "plan.json").read_text()) == found
    # Who only wants to know whether it would run needs no copy.
    assert main(["--params", "demo", "--workspace", str(tmp_path / "other")]) == 0
    assert [path.name for path in (tmp_path / "other" / "runs").iterdir()] == ["manual"]


def test_a_folder_depends_on_all_that_decides_what_it_will_hold(tmp_path: Path, meshes: Path) -> None:
    def folders(*options: str) -> tuple[str, str]:
        found = plan(tmp_path, "--meshes", str(meshes), *options)
        return found["dataset"], found["training"]

    first = folders()
    assert folders("--run-id", "another", "--promote", "never") == first
    assert folders("--set=evaluation.seed=5", "--set=serving.max_batch_size=2") == first
    dataset, training = folders("--set=training.r1_gamma=80")
    assert dataset == first[0] and training != first[1]
    for changed in (["--set=render.seed=1"], ["--shards", "2"]):
        dataset, training = folders(*changed)
        assert dataset != first[0] and training != first[1]
    (meshes / "c.obj").write_text((meshes / "a.obj").read_text())
    assert folders()[0] != first[0]


def test_other_weights_to_start_from_are_another_training(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    found = []
    for content in (b"a", b"b", b"a"):
        weights.write_bytes(content)
        found.append(plan(tmp_path, f"--set=training.init_from={weights}"))
    # The folder, and the key of the step in Kubeflow's cache.
    assert found[0]["training"] != found[1]["training"] and found[0]["train_code"] != found[1]["train_code"]
    assert found[0] == found[2]
    assert {plan["dataset"] for plan in found} == {found[0]["dataset"]}


def test_a_workspace_on_one_of_the_volumes(tmp_path: Path) -> None:
    plan(tmp_path, "--volumes", f"/data:{tmp_path}")
    plan(tmp_path, "--volumes", str(tmp_path / "ws"))


def test_as_many_nodes_as_the_launcher_takes() -> None:
    assert components.validate.main.MAX_NODES == components.train.job_spec.MAX_NODES


def test_without_meshes_there_are_vehicles(tmp_path: Path) -> None:
    found = plan(tmp_path, "--set=meshes.synth_count=7")
    assert found["synth_count"] == 7 and Path(found["meshes"]).name.startswith("vehicles-")
    assert plan(tmp_path, "--set=meshes.synth_count=8")["meshes"] != found["meshes"]


def test_changed_meshes_are_noticed_without_reading_them(meshes: Path) -> None:
    before = mesh_fingerprint(meshes)
    assert mesh_fingerprint(meshes) == before
    (meshes / ".hidden").write_text("x")
    assert mesh_fingerprint(meshes) == before
    shutil.copy(meshes / "a.obj", meshes / "new.obj")
    assert mesh_fingerprint(meshes) != before


def test_meshes_by_pointer_are_pinned_to_a_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.components.version_project import git

    work = tmp_path / "meshes-repo"
    (work / "cars").mkdir(parents=True)
    (work / "cars" / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    git(work, "init", "--quiet", "--initial-branch", "main")
    from dvc.repo import Repo

    with Repo.init(str(work)) as repo:
        repo.add(str(work / "cars"))
    git(work, "add", ".")
    git(work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "cars")
    commit = git(work, "rev-parse", "HEAD")
    found = plan(tmp_path, "--meshes", f"dvc://{work}@main:cars")
    assert found["meshes"] == f"dvc://{work}@{commit}:cars" and found["synth_count"] == 0
    absent = refusal(main, command(tmp_path, "--meshes", f"dvc://{work}@main:trucks"), capsys)
    assert "there is no such path at that revision" in absent


def test_the_version_goes_on_top_of_the_commit_that_a_branch_is_now(tmp_path: Path, project: Project) -> None:
    found = plan(tmp_path, "--git-repository", str(project.bare), "--git-revision", "main")
    assert found["git_revision"] == project.revision
    assert plan(tmp_path)["git_revision"] == ""


def test_servers_that_do_not_answer_are_named_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there, absent = (f"127.0.0.1:{s.getsockname()[1]}" for s in (server, closed))
        urls = f"{there},dns:///{absent}"
        plan(tmp_path, "--served-repository", "/models", "--triton-urls", urls, "--deploy-timeout-s", "7")
        assert (
            f"warning: no server answers at {absent} now; deploying will wait 7 s" in capsys.readouterr().out
        )
        plan(tmp_path, "--served-repository", "/models", "--triton-urls", there)
        assert "warning" not in capsys.readouterr().out


def test_meshes_in_a_store(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GET3D_DATA_CACHE", str(tmp_path / "cache"))
    url = f"file://{meshes}"
    first = plan(tmp_path, "--meshes", url)
    assert first["meshes"] == url
    local = local_meshes(url)
    assert sorted(path.name for path in local.iterdir()) == ["a.obj", "b.obj"] and local != meshes
    (meshes / "c.obj").write_text((meshes / "a.obj").read_text())
    assert plan(tmp_path, "--meshes", url)["mesh_fingerprint"] != first["mesh_fingerprint"]
    absent = refusal(main, command(tmp_path, "--meshes", f"{url}/nothing"), capsys)
    assert "does not exist or is empty" in absent
    recorded = ["--meshes", url, "--git-repository", "r", "--git-revision", "main"]
    assert "cannot be part of a version" in refusal(main, command(tmp_path, *recorded), capsys)


def test_the_model_in_production_matters_only_where_it_is_compared_with(tmp_path: Path) -> None:
    served = ("--served-repository", str(tmp_path / "served"), "--triton-urls", "triton:8001")
    relative = '--set=evaluation.thresholds=[{"metric": "cd_cov", "worse_than_production": 0.1}]'
    absolute = '--set=evaluation.thresholds=[{"metric": "cd_cov", "min": 0.1}]'
    first = plan(tmp_path, *served, relative)
    assert first["production_metrics"] == "" and first["production"]
    metrics = Path(first["production"]) / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("{}")
    assert plan(tmp_path, *served, absolute)["production_metrics"] == ""
    assert plan(tmp_path, *served, relative)["production_metrics"] == str(metrics)
    fingerprint = plan(tmp_path, *served, relative)["production_fingerprint"]
    metrics.write_text('{"a": 1}')
    assert plan(tmp_path, *served, relative)["production_fingerprint"] != fingerprint
    # This very model in production: the evaluation is asked for what it was asked for, and so comes from the cache.
    (metrics.parent / "record.json").write_text(first["production_record"])
    again = plan(tmp_path, *served, relative)
    assert {k: v for k, v in again.items() if k != "run_id"} == {
        k: v for k, v in first.items() if k != "run_id"
    }
    assert plan(tmp_path, *served, relative, "--set=training.seed=1")["production_metrics"] == str(metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "0"], "shards must be 1 to 10000, not 0"),
        (["--nodes", "0"], "nodes must be 1 to"),
        (["--nodes", "3"], "training.batch_size 8 cannot be shared by 3 processes"),
        (["--gpus", "-1"], "gpus must be 0 (training on processors) or more, not -1"),
        (["--gpus", "2", "--procs-per-node", "4"], "procs_per_node 4 is more than the 2 GPUs of a node"),
        (["--nodes", "1001"], "nodes must be 1 to 1000, not 1001"),
        (
            ["--volumes", "/data:/more"],
            "is on no volume that every step mounts and may write to: it must be in /data, /more",
        ),
        (["--set=training.r1_gama=1"], "unknown setting training.r1_gama; did you mean r1_gamma?"),
        (["--set=training.r1_gamma=-1"], "r1_gamma"),
        (
            ["--set=training.init_from=nowhere.safetensors"],
            "training.init_from: no such file: nowhere.safetensors",
        ),
        (["--set=name.first=1"], "name is no section"),
        (["--set=nothing"], "must be NAME=VALUE"),
        (["--params", "no-such-preset"], "nor one of the presets"),
        (["--params", "model: [1"], "not valid YAML at line 1"),
        (["--params", "- a: b"], "must be a mapping of settings"),
        (["--meshes", "/no/such/folder"], "the mesh folder /no/such/folder does not exist"),
        (["--workspace", "relative"], "workspace must be an absolute folder"),
        (["--workspace", "/proc/get3d"], "mount the shared volume there"),
        (["--promote", "perhaps"], "promote must be auto, always, never, not 'perhaps'"),
        (["--run-id", "a b"], "run_id must be at most 63 letters"),
        # Names of no branch, which would show when the version is recorded, after the training.
        (["--run-id", "a..b"], "run_id must be at most 63 letters"),
        (["--run-id", "a.lock"], "run_id must be at most 63 letters"),
        (["--served-repository", "/models"], "triton_urls is empty"),
        (["--triton-urls", "a:1"], "served_repository is empty"),
        (["--served-repository", "/m", "--triton-urls", "a:1,b"], "triton_urls must be HOST:PORT"),
        (["--served-repository", "/m", "--triton-urls", "a:70000"], "triton_urls must be HOST:PORT"),
        (["--git-repository", "/r"], "git_revision is empty"),
        (["--deploy-timeout-s", "0"], "deploy_timeout_s must be 1 to 86400, not 0"),
        (["--git-repository", "/no/such", "--git-revision", "main"], "--repo /no/such cannot be cloned"),
    ],
)
def test_a_bad_value_is_one_line_before_anything_starts(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(main, command(tmp_path, *options), capsys)
    assert not (tmp_path / "out").exists() and not (tmp_path / "ws" / "runs").exists()


def test_overrides_do_not_touch_what_they_are_put_on() -> None:
    params = {"a": {"b": {"c": 1}}, "d": 2}
    assert with_overrides(params, {"a.b.c": 3, "e.f": 4}) == {"a": {"b": {"c": 3}}, "d": 2, "e": {"f": 4}}
    assert params == {"a": {"b": {"c": 1}}, "d": 2}


def test_overrides_as_the_kubeflow_ui_gives_them() -> None:
    assert override_lines("training.r1_gamma: 80\nname: x") == ["training.r1_gamma=80", 'name="x"']
    assert override_lines("  ") == []
    with pytest.raises(InputError, match="lines such as"):
        override_lines("training.r1_gamma=80")


def test_weights_of_the_package_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "get3d_model/pretrained/vehicles_256.safetensors"
    assert resolve_init_from(path).is_file()
    (tmp_path / "get3d_model" / "pretrained").mkdir(parents=True)
    (tmp_path / path).write_text("mine")
    assert resolve_init_from(path).read_text() == "mine"
