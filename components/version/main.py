"""`get3d version`: a run becomes a version, which is git branch `runs/<run id>` with its data in the DVC remote.

A fresh clone of the branch and `dvc pull` give the parameters, the code and all outputs of the run, and `dvc repro`
finds nothing to do there. The data come first and the branch last, in one push: there is no moment at which a
branch names what is not in the remote. Every step can be repeated; what is there already is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from get3d_model.entry_point import command_main
from get3d_model.errors import InputError

VERSION_FILE = "version.json"
PARAMS_FILE = "params.yaml"
_STATE = ".version-state"


@dataclass(frozen=True)
class VersionRequest:
    """repo: URL or folder of the git repository. revision: the commit that the run was made from.

    params: the run's params file. changes: `section.name=value` to set in it. outputs: as `--outputs` takes them.
    remote: None for the revision's default DVC remote. without: stages that did not run. out: folder for
    version.json. work: folder for the clone; in `out` where it is None.
    """

    repo: str
    revision: str
    run_id: str
    params: Path
    outputs: tuple[str, ...]
    out: Path
    changes: tuple[str, ...] = ()
    remote: str | None = None
    message: str | None = None
    without: tuple[str, ...] = ()
    work: Path | None = None


@dataclass(frozen=True)
class Version:
    """What version.json holds. created: False when an earlier attempt had made the branch already."""

    run_id: str
    branch: str
    commit: str
    revision: str
    repo: str
    remote: str
    remote_url: str
    created: bool
    metrics: dict[str, float]
    outputs: dict[str, dict[str, Any]]
    not_recorded: tuple[str, ...] = field(default=())


def record_version(request: VersionRequest) -> Version:
    """Records a run. May be repeated after any failure. Raises InputError."""
    from components.dvc_support import pod_environment, without_password
    from components.version.git import GitError, branch_name, clone_at, commit_all, push_once
    from components.version.metrics import commit_message
    from components.version.record import record
    from components.version.sources import parse_outputs
    from get3d_model.files import clear_disk_errors, write_json_atomic

    branch = branch_name(request.run_id)
    given = parse_outputs(request.outputs)
    params = _read_params(request.params, request.changes)
    local = Path(request.repo)
    repo = str(local.absolute()) if local.exists() else request.repo
    state = (request.work or request.out).absolute() / _STATE
    advice = "make space, or name another folder with --work, then run the same command again"
    with clear_disk_errors(state, advice), _alone(state):
        # What killed attempts left. The hashes that they found are beside it and are used again. A name of its own,
        # because git commands of an attempt that was killed may still be at work.
        for left in state.glob("work-*"):
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix="work-", dir=state))
        safe = (local.absolute(), local.absolute() / ".git") if local.exists() else ()
        with pod_environment(state, safe):
            clone = clone_at(repo, request.revision, work / "clone")
            (clone.folder / PARAMS_FILE).write_text(params)
            recorded = record(
                clone.folder, given, PARAMS_FILE, request.remote, request.without, work, state / "hashes"
            )
            message = commit_message(
                request.run_id,
                request.message,
                recorded.metrics,
                {"Run-Id": request.run_id, "Revision": clone.revision, "Dvc-Remote": recorded.remote},
            )
            try:
                commit_all(clone, list(recorded.files), message)
            except GitError as error:
                raise InputError(f"the version cannot be committed: {error}; {advice}") from None
            commit, created = push_once(clone, branch)
        version = Version(
            request.run_id,
            branch,
            commit,
            clone.revision,
            without_password(request.repo),
            recorded.remote,
            recorded.remote_url,
            created,
            recorded.metrics,
            recorded.outputs,
            recorded.not_recorded,
        )
        write_json_atomic(request.out / VERSION_FILE, vars(version))
        shutil.rmtree(state, ignore_errors=True)
    return version


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Makes the folder and holds it until the end of this process. Raises InputError where another attempt is at work
    in it, whose clone would be taken for one that was left behind."""
    state.mkdir(parents=True, exist_ok=True)
    handle = os.open(state, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another attempt is recording in {state.parent} now; wait for its end, or give another --out"
                ) from None
        yield
    finally:
        os.close(handle)


def _read_params(path: Path, changes: tuple[str, ...]) -> str:
    """The text of a params file, with `changes` made in it. Raises InputError."""
    import yaml

    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"--params {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"--params {path} is no params file (it is no text)") from None
    try:
        values = yaml.safe_load(text)
        if not isinstance(values, dict):
            raise ValueError("not a mapping")
        for change in changes:
            name, equals, value = change.partition("=")
            section = values
            *sections, last = name.split(".")
            for key in sections:
                section = section.setdefault(key, {})
            if not equals or not last or not isinstance(section, dict):
                raise InputError(f"--set {change}: write SECTION.NAME=VALUE")
            section[last] = yaml.safe_load(value)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"--params {path} is no params file ({' '.join(str(error).split())})") from None
    return yaml.safe_dump(values, sort_keys=False) if changes else text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--repo",
        required=True,
        metavar="URL",
        help="git repository, URL or folder, to clone from and push to",
    )
    add(
        "--revision",
        required=True,
        metavar="REV",
        help="the commit, branch or tag that the run was made from",
    )
    add("--run-id", required=True, metavar="ID", help="the version is branch runs/ID")
    add("--params", type=Path, required=True, metavar="FILE", help="the params file of the run")
    add(
        "--outputs",
        nargs="+",
        required=True,
        metavar="PATH=WHERE",
        help="where each output of dvc.yaml lies: a folder or file, dvc://REPO@REV:PATH, or a pointer's .json file;"
        " or just a folder laid out like the repository. A PATH that no stage makes but one reads is an input",
    )
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change settings in the recorded params file",
    )
    add("--remote", metavar="NAME", help="DVC remote (default: the default one of the revision)")
    add("--message", help="first line of the commit (default: Run ID)")
    add(
        "--without",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="stages that did not run, such as an export that the gate refused",
    )
    add("--work", type=Path, metavar="DIR", help="folder for the clone (default: in --out)")
    add("--out", type=Path, required=True, metavar="DIR", help=f"folder for {VERSION_FILE}")


def run(args: argparse.Namespace) -> None:
    """Does what the arguments say. Raises InputError."""
    version = record_version(
        VersionRequest(
            repo=args.repo,
            revision=args.revision,
            run_id=args.run_id,
            params=args.params,
            outputs=tuple(args.outputs),
            out=args.out,
            changes=tuple(args.set),
            remote=args.remote,
            message=args.message,
            without=tuple(args.without),
            work=args.work,
        )
    )
    state = "recorded" if version.created else "up to date"
    print(f"{version.branch} at {version.commit[:12]}: {state}, data in DVC remote {version.remote}")


main = command_main("get3d version", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
