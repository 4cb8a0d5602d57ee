"""A repository that could not take the run's version is refused before the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components.version.target import check_target
from get3d_model.errors import InputError
from tests.components.test_version_errors import (
    no_remote,
    no_repository,
    unreachable_s3,
    unreachable_ssh,
)
from tests.components.version_project import Project, git


def test_a_branch_is_pinned_to_its_commit_and_nothing_is_changed(project: Project) -> None:
    before = git(project.bare, "for-each-ref")
    assert check_target(str(project.bare), "main") == project.revision
    assert check_target(str(project.bare), project.revision) == project.revision
    assert git(project.bare, "for-each-ref") == before
    assert not list((project.folder / "remote").iterdir())


def no_pipeline(project: Project) -> dict[str, str]:
    work = project.folder / "edit"
    git(project.folder, "clone", "--quiet", str(project.bare), str(work))
    (work / "dvc.yaml").write_text(yaml.safe_dump({"stages": {}}))
    git(work, "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "--quiet", "-am", "empty")
    git(work, "push", "--quiet")
    return {"revision": "main"}


def no_dvc(project: Project) -> dict[str, str]:
    plain = project.folder / "plain"
    git(project.folder, "init", "--quiet", "--initial-branch", "main", str(plain))
    git(
        plain,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@e.org",
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "x",
    )
    return {"repo": str(plain), "revision": "main"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_repository, ["nothing.git cannot be cloned"]),
        (lambda p: {"revision": "0" * 40}, ["has no such commit, branch or tag; push it first"]),
        (no_pipeline, ["has no dvc.yaml with stages"]),
        (no_dvc, ["not inside of a DVC repository"]),
        (no_remote, ["has no default DVC remote"]),
        (unreachable_ssh, ["DVC remote store (ssh://", "failed"]),
        (unreachable_s3, ["DVC remote store (s3://bucket/x) failed"]),
    ],
)
def test_what_is_wrong_is_one_line(
    change: Callable[[Project], dict[str, str]],
    words: list[str],
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "")  # restored afterwards, whatever it becomes
    given = {"repo": str(project.bare), "revision": project.revision, **change(project)}
    with pytest.raises(InputError) as caught:
        check_target(given["repo"], given["revision"])
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_repository_that_may_only_be_read(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git asks for the rights to push with another program than for those to read; here that one refuses."""
    refuses = tmp_path / "config"
    refuses.write_text('[remote "origin"]\nreceivepack = "echo denied >&2; false"\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(refuses))
    with pytest.raises(InputError, match=r"bare\.git cannot be pushed to: .*; check the access"):
        check_target(str(project.bare), "main")
