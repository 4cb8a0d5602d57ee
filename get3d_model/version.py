"""The version of this package, installed or run from its source tree, and the commit that it is."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import tomllib
from functools import cache
from pathlib import Path

DISTRIBUTION = "get3d-pipeline"
UNKNOWN = "unknown"
SOURCE_TREE = Path(__file__).resolve().parent.parent
COMMIT_VARIABLE = "GET3D_COMMIT"
"""Environment variable with the commit of an installed package; the images set it."""


def package_version(source_tree: Path = SOURCE_TREE) -> str:
    """Of the installed distribution; where there is none, as pyproject.toml of `source_tree` says; else "unknown"."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        project = tomllib.loads((source_tree / "pyproject.toml").read_text())["project"]
    except (OSError, ValueError, KeyError):
        return UNKNOWN
    # Packages may lie unpacked in a folder of another project.
    return str(project.get("version", UNKNOWN)) if project.get("name") == DISTRIBUTION else UNKNOWN


@cache
def source_commit(source_tree: Path = SOURCE_TREE) -> str | None:
    """The commit of this code: that of its git checkout, with "-dirty" where files differ from it, or else what
    COMMIT_VARIABLE says; None where nobody knows."""
    if (source_tree / ".git").exists():
        # No tag is wanted, so the whole hash comes.
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            done = subprocess.run(command, cwd=source_tree, capture_output=True, text=True, check=False)
        except OSError:
            done = None
        if done is not None and done.returncode == 0:
            return done.stdout.strip()
    told = os.environ.get(COMMIT_VARIABLE, UNKNOWN)
    return None if told in ("", UNKNOWN) else told
