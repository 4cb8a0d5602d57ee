"""Metrics of a run, flat: for the commit message and version.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from get3d_model.errors import InputError

MAIN_FILE = "metrics"


def read_metrics(files: list[Path]) -> dict[str, float]:
    """The numbers in the files. Those of `metrics.json` keep their names, others get the file's before it, as in
    `best.value`. Raises InputError for a file that is not JSON or YAML.
    """
    metrics: dict[str, float] = {}
    for file in files:
        try:
            content = (
                json.loads(file.read_text()) if file.suffix == ".json" else yaml.safe_load(file.read_text())
            )
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(
                f"{file} holds no metrics ({' '.join(str(error).split())}); run its step again"
            ) from None
        metrics |= _flat(content, "" if file.stem == MAIN_FILE else f"{file.stem}.")
    return metrics


def _flat(content: Any, prefix: str) -> dict[str, float]:
    if isinstance(content, dict):
        found: dict[str, float] = {}
        for key, value in content.items():
            inner = f"{prefix}{key}"
            found |= _flat(value, f"{inner}.") if isinstance(value, dict) else _flat(value, inner)
        return found
    number = isinstance(content, (int, float)) and not isinstance(content, bool) and math.isfinite(content)
    return {prefix: content} if number else {}


def commit_message(run_id: str, text: str | None, metrics: dict[str, float], trailers: dict[str, str]) -> str:
    """Title, then one metric a line, then `Name: value` trailers that `git interpret-trailers` reads."""
    lines = [text or f"Run {run_id}", ""]
    lines += [f"{name} = {value:.6g}" for name, value in sorted(metrics.items())]
    lines += [""] * bool(metrics) + [f"{name}: {value}" for name, value in trailers.items()]
    return "\n".join(lines) + "\n"
