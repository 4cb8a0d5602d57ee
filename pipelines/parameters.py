"""The pipeline's parameters as the command line gives them, for a run on this machine and on a cluster alike."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from components.validate.main import override, read_params, with_overrides
from get3d_model.config import config_from_dict
from get3d_model.errors import InputError

_AS_THEY_ARE = (
    "meshes", "shards", "nodes", "procs_per_node", "deploy_timeout_s", "promote", "served_repository", "triton_urls",
    "git_repository", "git_revision", "run_id",
)  # fmt: skip


def arguments_from(args: argparse.Namespace) -> dict[str, Any]:
    """What is given, checked as far as it can be here: the rest is for the pipeline's first step. Raises InputError."""
    given: dict[str, Any] = {}
    overrides = dict(override(item) for item in args.set)
    if args.params is not None:
        given["params"] = _text(args.params)
        config_from_dict(with_overrides(read_params(given["params"]), overrides), str(args.params))
    if overrides:
        given["overrides"] = json.dumps(overrides)
    given |= {name: getattr(args, name) for name in _AS_THEY_ARE if getattr(args, name) is not None}
    workspace = getattr(args, "workspace", None)
    if workspace is not None:
        given["workspace"] = str(workspace)
    if given.get("git_repository") and not given.get("git_revision"):
        given["git_revision"] = head_revision()
    return given


def _text(params: str) -> str:
    """Of the file, because the steps may run where it is not. A preset goes by its name. Raises InputError."""
    path = Path(params)
    if not path.is_file():
        return params
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--params {path}: cannot be read ({error})") from None


def head_revision() -> str:
    """The commit that is checked out here. Raises InputError."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError("--git-revision is needed with --git-repository: this is no git repository")
    return done.stdout.strip()
