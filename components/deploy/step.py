"""The deploy step of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.artifacts import call, read_json
from get3d_model.files import write_json_atomic

RECORD_FILE = "deploy.json"


def deploy(repository: str, served_repository: str, triton_urls: str, out: str) -> dict[str, Any]:
    """Rolls out where a server is configured. Returns what deploy.json says. Raises InputError."""
    if not served_repository:
        result = {"outcome": "skipped", "reason": "no served_repository is configured"}
        write_json_atomic(Path(out) / RECORD_FILE, result)
        return result
    from components.deploy import main

    arguments = [
        "--repository",
        repository,
        "--target",
        served_repository,
        "--url",
        triton_urls,
        "--out",
        out,
    ]
    call(main.main, *arguments)
    return read_json(Path(out) / RECORD_FILE)
