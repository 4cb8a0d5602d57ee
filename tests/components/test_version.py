"""Versions of runs: a real bare git repository, a real DVC remote, and DVC itself as the judge."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.version import record as record_module
from components.version.main import VERSION_FILE, main, record_version
from get3d_model.errors import InputError
from pipelines.cli import build_parser
from tests.components.version_project import (
    OUTPUTS,
    PARAMS,
    Project,
    check_version,
    git,
    read_json,
    set_remote,
    snapshot,
)


def test_a_fresh_clone_of_a_version_has_nothing_to_do(project: Project) -> None:
    before = snapshot(project.run)
    version = record_version(project.request())
    assert snapshot(project.run) == before
    clone = check_version(project.bare, "runs/a-1", project.folder)
    # DVC wrote the same where the stages ran.
    assert yaml.safe_load((clone / "dvc.lock").read_text()) == project.lock
    assert yaml.safe_load((clone / "params.yaml").read_text()) == PARAMS
    for name in OUTPUTS:
        for path in (
            (project.run / name).rglob("*") if (project.run / name).is_dir() else [project.run / name]
        ):
            if path.is_file():
                assert (clone / path.relative_to(project.run)).read_bytes() == path.read_bytes()
    message = git(project.bare, "log", "-1", "--format=%B", "runs/a-1")
    assert message.splitlines()[0] == "Run a-1"
    assert {"cov = 0.5", "mmd.mean = 0.25", "best.value = 5"} <= set(message.splitlines())
    stored = read_json(project.folder / "out" / VERSION_FILE)
    assert stored["commit"] == version.commit == git(project.bare, "rev-parse", "runs/a-1")
    assert stored["branch"] == "runs/a-1" and stored["remote"] == "store"
    assert stored["metrics"] == {"cov": 0.5, "mmd.mean": 0.25, "best.value": 5.0}
    assert stored["outputs"]["data/rendered"]["files"] == 4
    assert [p.name for p in (project.folder / "out").iterdir()] == [VERSION_FILE]


def test_repeating_changes_nothing(project: Project) -> None:
    first = record_version(project.request())
    second = record_version(project.request(message="other words"))
    assert (first.created, second.created) == (True, False)
    assert first.commit == second.commit
    assert project.branches() == ["runs/a-1"] and project.commits("runs/a-1") == 1


def test_a_folder_laid_out_like_the_repository(project: Project) -> None:
    record_version(project.request(outputs=(str(project.run),)))
    check_version(project.bare, "runs/a-1", project.folder)


def test_half_written_files_are_not_recorded(project: Project) -> None:
    for name in ("outputs/train/.model.17.tmp", "data/rendered/shards/.0.17.tmp.tar"):
        (project.run / name).write_text("half")
    (project.run / "outputs/train/.checkpoint.17.tmp").mkdir()
    (project.run / "outputs/train/.checkpoint.17.tmp/weights").write_text("half")
    record_version(project.request())
    clone = check_version(project.bare, "runs/a-1", project.folder)
    assert yaml.safe_load((clone / "dvc.lock").read_text()) == project.lock


def test_an_object_that_arrived_half_is_sent_again(project: Project) -> None:
    record_version(project.request())
    largest = max(
        (project.folder / "remote").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0
    )
    largest.chmod(0o644)
    os.truncate(largest, 17)
    record_version(project.request("a-2"))
    check_version(project.bare, "runs/a-2", project.folder)


def test_a_refused_push_can_be_repeated(project: Project) -> None:
    before = snapshot(project.run)
    hook = project.bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho quota exceeded >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(InputError, match=r"runs/a-1 cannot be pushed.*run the same command again"):
        record_version(project.request())
    assert project.branches() == [] and snapshot(project.run) == before
    assert not (project.folder / "out" / VERSION_FILE).exists()
    hook.unlink()
    assert record_version(project.request()).created
    check_version(project.bare, "runs/a-1", project.folder)


def test_an_attempt_after_a_failure_does_not_hash_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dvc_data.hashfile.hash as hashing

    hook = project.bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    read: list[str] = []
    original = hashing.file_md5
    monkeypatch.setattr(
        hashing, "file_md5", lambda path, *rest, **more: read.append(path) or original(path, *rest, **more)
    )
    for _ in range(2):
        before = len(read)
        with pytest.raises(InputError):
            record_version(project.request())
        hashed = [path for path in read[before:] if str(project.run) in path]
        assert len(hashed) == (0 if before else 7)


def test_an_output_that_changes_meanwhile_is_not_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.version.upload import RemoteStore

    original = RemoteStore._send

    def send(store: RemoteStore, objects: list[Any]) -> int:
        (project.run / "outputs/train/model").write_text("goes on")
        return original(store, objects)

    monkeypatch.setattr(RemoteStore, "_send", send)
    with pytest.raises(InputError, match=r"outputs/train changed while it was recorded"):
        record_version(project.request(outputs=tuple(reversed(project.request().outputs))))
    assert project.branches() == []
    monkeypatch.undo()
    record_version(project.request())
    check_version(project.bare, "runs/a-1", project.folder)


def test_a_second_attempt_does_not_clear_away_the_clone_of_the_first(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_module.record
    refused = []

    def slowly(folder: Path, *arguments: Any) -> Any:
        with pytest.raises(InputError, match=r"another attempt is recording in .*out now") as caught:
            record_version(project.request())
        refused.append(caught.value)
        return record(folder, *arguments)

    monkeypatch.setattr(record_module, "record", slowly)
    assert record_version(project.request()).created and refused


def test_a_branch_with_other_content_stays(project: Project) -> None:
    first = record_version(project.request())
    (project.run / "outputs/train/model").write_text("another model")
    with pytest.raises(InputError, match=r"runs/a-1 .*other content \(it differs in dvc.lock\)"):
        record_version(project.request())
    assert git(project.bare, "rev-parse", "runs/a-1") == first.commit


def test_a_stage_that_did_not_run(project: Project) -> None:
    outputs = tuple(f"{name}={project.run / name}" for name in OUTPUTS[:2])
    with pytest.raises(InputError, match=r"metrics.json of stage evaluate was not given.*--without evaluate"):
        record_version(project.request(outputs=outputs))
    version = record_version(project.request(outputs=outputs, without=("evaluate",)))
    assert version.not_recorded == ("evaluate",)
    assert version.metrics == {"best.value": 5.0}
    clone = check_version(project.bare, "runs/a-1", project.folder)
    assert sorted(path.name for path in (clone / "outputs").iterdir()) == ["train"]
    # Recorded again: the same. A version that starts from it has the stage back.
    assert not record_version(project.request(outputs=outputs, without=("evaluate",))).created
    record_version(project.request("a-2", revision="runs/a-1"))
    clone = check_version(project.bare, "runs/a-2", project.folder)
    assert (clone / OUTPUTS[2]).exists()
    assert (clone / "dvc.yaml").read_text() == git(project.bare, "show", "main:dvc.yaml") + "\n"


def test_outputs_of_the_revision_are_kept_where_they_still_fit(project: Project) -> None:
    """A run that trains on the data set of an earlier version does not have it at hand."""
    first = record_version(project.request())
    (project.run / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "training": {"r1_gamma": 20.0}}))
    (project.run / "outputs/train/model").write_text("20.0")
    outputs = tuple(f"{name}={project.run / name}" for name in OUTPUTS[1:])
    request = project.request("a-2", outputs=outputs, revision=first.branch)
    record_version(request)
    clone = check_version(project.bare, "runs/a-2", project.folder)
    assert (clone / "outputs/train/model").read_text() == "20.0"
    assert (clone / "data/rendered/manifest.json").exists()
    params = {"render": {"views": 3}, "training": {"r1_gamma": 20.0}}
    (project.run / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(InputError, match=r"stage render: the revision's outputs were made from other inputs"):
        record_version(replace(request, run_id="a-3"))


def test_an_input_of_the_run_is_recorded_too(project: Project) -> None:
    """Meshes of one's own: no stage makes them, and a clone elsewhere must get them."""
    work = project.folder / "edit"
    git(project.folder, "clone", "--quiet", str(project.bare), str(work))
    pipeline = yaml.safe_load((work / "dvc.yaml").read_text())
    pipeline["stages"]["render"]["deps"].append("${meshes.path}")
    (work / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (work / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "meshes": {"path": "data/own"}}))
    git(work, "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "--quiet", "-am", "own meshes")
    git(work, "push", "--quiet", "origin", "main")
    meshes = project.folder / "elsewhere"
    meshes.mkdir()
    (meshes / "car.glb").write_text("car")
    (project.run / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "meshes": {"path": str(meshes)}}))
    request = project.request(revision="main")
    with pytest.raises(InputError, match=r"reads .*elsewhere, which a clone elsewhere does not have"):
        record_version(request)
    outputs = (*request.outputs, f"data/own={meshes}")
    record_version(replace(request, changes=("meshes.path=data/own",), outputs=outputs))
    clone = check_version(project.bare, "runs/a-1", project.folder)
    assert (clone / "data/own/car.glb").read_text() == "car"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
def test_in_a_container_without_home_and_user(project: Project) -> None:
    """As a pod runs it: a number for a user, nothing in the environment, and a repository of somebody else."""
    # Beside pytest's folders, which only their owner may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(project.run, folder / "run")
        set_remote(project, f"[core]\n    remote = s\n['remote \"s\"']\n    url = {folder / 'store'}\n")
        shutil.copytree(project.bare, folder / "bare.git")
        subprocess.run(["chmod", "-R", "a+rwX", str(folder / "bare.git")], check=True)
        for writable in ("out", "store"):
            (folder / writable).mkdir()
            (folder / writable).chmod(0o777)
        there = replace(project, folder=folder, bare=folder / "bare.git", run=folder / "run")
        child = os.fork()
        if child == 0:
            try:
                os.environ.clear()
                os.environ["PATH"] = "/usr/bin:/bin"
                os.setgroups([])
                os.setgid(23456)
                os.setuid(23456)
                os.chdir("/")
                record_version(there.request("pod", revision="main"))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        subprocess.run(["chown", "-R", "0:0", str(folder)], check=True)
        assert git(there.bare, "log", "-1", "--format=%an <%ae>", "runs/pod") == "get3d <get3d@localhost>"
        check_version(there.bare, "runs/pod", folder)


def test_the_command(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    request = project.request()
    words = ["--repo", request.repo, "--revision", "main", "--run-id", "c", "--params", str(request.params)]
    words += ["--out", str(request.out), "--outputs", *request.outputs, "--message", "Cars, second try"]
    assert build_parser("version").parse_args(["version", *words]).run_id == "c"
    assert main(words) == 0
    assert "runs/c at" in capsys.readouterr().out
    assert git(project.bare, "log", "-1", "--format=%s", "runs/c") == "Cars, second try"
    assert main([*words, "--remote", "none"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("get3d version: DVC remote none") and error.count("\n") == 1
