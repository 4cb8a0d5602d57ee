"""The version of this package: installed, or run from its source tree."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

DISTRIBUTION = "get3d-pipeline"
UNKNOWN = "unknown"
SOURCE_TREE = Path(__file__).resolve().parent.parent


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
