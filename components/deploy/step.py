"""The deploy step of a pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from components.artifacts import call, read_json
from get3d_model.files import atomic_directory, write_json_atomic

RECORD_FILE = "deploy.json"
ALL_ADDRESSES = "dns:///"
"""What a URL begins with that stands for every address its name has, as for gRPC."""
METRICS_FILES = ("metrics.json", "metrics_full.json")


def deploy(
    repository: str, served_repository: str, triton_urls: str, timeout_s: int, out: str
) -> dict[str, Any]:
    """Rolls out where a server is configured. Returns what deploy.json says. Raises InputError."""
    if not served_repository:
        result = {"outcome": "skipped", "reason": "no served_repository is configured"}
        write_json_atomic(Path(out) / RECORD_FILE, result)
        return result
    from components.deploy import main

    arguments = ["--repository", repository, "--target", served_repository, "--out", out]
    arguments += ["--timeout-s", str(timeout_s)]
    urls = [url.strip() for url in triton_urls.split(",") if url.strip()]
    arguments += ["--url", ",".join(url.removeprefix(ALL_ADDRESSES) for url in urls)]
    if any(url.startswith(ALL_ADDRESSES) for url in urls):
        # A host's own address stays what it is.
        arguments.append("--resolve")
    # Tokens and certificates come from the environment: no command line, artifact or log shows them.
    call(main.main, *arguments)
    return read_json(Path(out) / RECORD_FILE)


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """What is worth a line of the summary; what every replica said is in the file."""
    return {
        key: value for key, value in result.items() if value not in (None, []) and not isinstance(value, dict)
    }


def keep_metrics(evaluation: str, production: str, record: str = "") -> None:
    """Keeps the metrics of what is now served, for the gate of later runs. production: empty: nothing is served."""
    if not production:
        return
    with atomic_directory(Path(production)) as staged:
        for name in METRICS_FILES:
            if (Path(evaluation) / name).is_file():
                shutil.copyfile(Path(evaluation) / name, staged / name)
        (staged / "record.json").write_text(record or "{}")
