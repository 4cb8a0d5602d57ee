"""Whether a version could be recorded: asked before a run that takes hours, and not only after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.dvc_support import one_line, pod_environment
from components.version.git import check_push, clone_at
from components.version.upload import RemoteStore
from get3d_model.errors import InputError


def check_target(repo: str, revision: str) -> str:
    """The commit that `revision` is in the repository. Nothing is changed anywhere.

    Raises InputError where the repository cannot be cloned or pushed to, has no such revision, or where the revision has
    no pipeline or no DVC remote that answers.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    local = Path(repo).absolute() if Path(repo).exists() else None
    safe = (local, local / ".git") if local else ()
    with tempfile.TemporaryDirectory(prefix="get3d-target-") as name:
        folder = Path(name)
        with pod_environment(folder / "state", safe):
            clone = clone_at(str(local or repo), revision, folder / "clone")
            check_push(clone)
            try:
                with Repo(str(clone.folder)) as opened:
                    if not opened.index.stages:
                        raise InputError(f"--revision {revision}: has no dvc.yaml with stages")
                    RemoteStore(opened, None, folder).check()
            except DvcException as error:
                raise InputError(f"--revision {revision}: {one_line(error)}") from None
    return clone.revision
