"""The git side of a version: a clone at the run's revision, one commit, one branch."""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from components.artifacts import is_run_id
from components.dvc_support import one_line, without_password
from get3d_model.errors import InputError

BRANCH_PREFIX = "runs/"


class GitError(Exception):
    """A git command failed. Its text is what git said, on one line."""


@dataclass(frozen=True)
class Clone:
    """folder: a work tree at `revision`, which is the full hash of a commit of `url`."""

    folder: Path
    url: str
    revision: str

    def git(self, *arguments: str) -> str:
        return git(self.folder, *arguments)


def git(folder: Path, *arguments: str) -> str:
    """What the command writes to stdout, stripped. Raises GitError."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode:
        # "fatal:" says why; what stands around it is advice, and progress.
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        chosen = [line for line in lines if line.startswith(("fatal:", "error:", "remote: error", " ! "))]
        raise GitError(one_line("; ".join((chosen or lines)[:3])))
    return done.stdout.strip()


def branch_name(run_id: str) -> str:
    """Raises InputError for a run id that cannot be in a branch's name."""
    if not is_run_id(run_id):
        raise InputError(
            f"--run-id {run_id!r} cannot name a branch; use 1 to 63 letters, digits, '.', '_' and '-'"
        )
    return f"{BRANCH_PREFIX}{run_id}"


def clone_at(url: str, revision: str, folder: Path) -> Clone:
    """Clones `url` into `folder` and checks `revision` out. Raises InputError."""
    shown = without_password(url)
    try:
        git(folder.parent, "clone", "--quiet", "--no-checkout", "--", url, str(folder))
    except GitError as error:
        raise InputError(
            f"--repo {shown} cannot be cloned: {error}; check the address and the access"
        ) from None
    for name in (revision, f"origin/{revision}"):
        try:
            commit = git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except GitError:
            continue
        git(folder, "checkout", "--quiet", "--detach", commit)
        return Clone(folder, url, commit)
    raise InputError(f"--revision {revision}: {shown} has no such commit, branch or tag; push it first")


def commit_all(clone: Clone, paths: list[str], message: str) -> str:
    """Commits `paths` on top of the revision, also where git ignores them; returns the commit."""
    clone.git("add", "--force", "--", *paths)
    clone.git("commit", "--quiet", "--allow-empty", "--no-verify", "--no-gpg-sign", "--message", message)
    return clone.git("rev-parse", "HEAD")


def check_push(clone: Clone) -> None:
    """Whether the repository would take a branch, as far as git tells without sending one. Raises InputError."""
    branch = f"{BRANCH_PREFIX}check-{secrets.token_hex(4)}"
    try:
        clone.git("push", "--dry-run", "--quiet", "--no-verify", "origin", f"HEAD:refs/heads/{branch}")
    except GitError as error:
        raise InputError(
            f"--repo {without_password(clone.url)} cannot be pushed to: {error}; check the access"
        ) from None


def push_once(clone: Clone, branch: str) -> tuple[str, bool]:
    """Pushes HEAD as `branch`: (the commit that the branch has now, whether it is this one).

    A branch that has the same content on the same revision is left as it is: an earlier attempt made it.
    Raises InputError when it has other content, and when the repository cannot be reached or written.
    """
    commit = clone.git("rev-parse", "HEAD")
    for attempt in ("look", "push", "look"):
        try:
            if attempt == "push":
                clone.git("push", "--quiet", "--no-verify", "origin", f"HEAD:refs/heads/{branch}")
                return commit, True
            existing = _existing(clone, branch)
        except GitError as error:
            if attempt == "push":
                failure = error
                continue
            raise InputError(f"--repo {without_password(clone.url)} cannot be reached: {error}") from None
        if existing:
            _check_same(clone, branch, existing, commit)
            return existing, False
    raise InputError(
        f"--repo {without_password(clone.url)}: branch {branch} cannot be pushed: {failure}; the data are safe in the"
        " DVC remote, run the same command again"
    )


def _existing(clone: Clone, branch: str) -> str | None:
    """The commit at `branch` of the repository, fetched; None where there is no such branch."""
    if not clone.git("ls-remote", "--heads", "origin", f"refs/heads/{branch}"):
        return None
    clone.git("fetch", "--quiet", "origin", f"refs/heads/{branch}")
    return clone.git("rev-parse", "FETCH_HEAD")


def _check_same(clone: Clone, branch: str, existing: str, commit: str) -> None:
    """Raises InputError unless both commits have the same tree and the same parent."""
    (tree, parent), (our_tree, our_parent) = (
        clone.git("log", "-1", "--format=%T|%P", name).split("|") for name in (existing, commit)
    )
    if (tree, parent) == (our_tree, our_parent):
        return
    if parent != our_parent:
        what = f"it starts from revision {parent[:12] or 'none'}"
    else:
        what = "it differs in " + ", ".join(
            clone.git("diff", "--name-only", existing, commit).splitlines()[:4]
        )
    raise InputError(
        f"branch {branch} of {without_password(clone.url)} exists with other content ({what}); versions never change:"
        " use another --run-id"
    )
