"""What the bodies of the Kubeflow components share at run time; knows nothing of kfp or torch.

Large data does not travel through the artifact store: a data set is a *pointer*, a small JSON file that names a folder
on the volume that all steps share, with the hash of what the folder held.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import math
import os
import re
import signal
import tempfile
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from get3d_model.entry_point import disk_errors, exit_code
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, write_bytes_atomic, write_json_atomic

BASE_IMAGE = "get3d-pipeline-python:latest"
"""Image of the components where no cluster profile names another."""
WATCHED_PROCESS = "GET3D_PIPELINE_PROCESS"
"""Environment variable with the id of the process that runs the pipeline on this machine."""
PICTURE_WIDTH = 720
PLAN_FILE = "plan.json"
GATE_FILE = "gate.json"
_RUN_ID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@contextlib.contextmanager
def one_line_errors(step: str) -> Iterator[None]:
    """Bad input ends the step with one line and status 2, as it ends the command; other errors stay tracebacks.

    What the step prints are records away from a terminal (`monitoring.logs`).
    """
    _stop_with_pipeline()
    with monitoring_steps().timed(step):
        try:
            with _monitoring("logs").structured(step), disk_errors():
                yield
        except (InputError, KeyboardInterrupt) as error:
            raise SystemExit(exit_code(f"get3d {step}", error)) from None


def monitoring_steps() -> Any:
    """`monitoring.steps`, which tells Prometheus of steps."""
    return _monitoring("steps")


def _monitoring(name: str) -> Any:
    """A module of monitoring. Not by an import statement: what a step tells is no part of its code's version, and no
    reason to run it again."""
    return importlib.import_module(f"monitoring.{name}")


def call(main: Callable[[list[str]], int | None], *arguments: object) -> None:
    """Runs a command's `main`; a status other than 0 becomes this process's."""
    status = main([str(argument) for argument in arguments])
    if status:
        raise SystemExit(status)


def _stop_with_pipeline() -> None:
    """On this machine: when the process that runs the pipeline is killed, the step stops too.

    Otherwise a training would go on unseen, into the folder that the next run continues.
    """
    owner = int(os.environ.get(WATCHED_PROCESS, "0"))
    if not owner:
        return

    def watch() -> None:
        while True:
            time.sleep(0.5)
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True).start()


def write_pointer(
    path: str | Path, folder: str | Path, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes a pointer to `folder` at `path`; returns it, for the artifact's metadata.

    A data set with a manifest is identified by the manifest's hash.
    """
    folder = Path(folder)
    manifest = folder / "manifest.json"
    pointer = {"path": str(folder), **(facts or {})}
    if manifest.is_file():
        pointer["manifest_sha256"] = sha256_file(manifest)
    write_json_atomic(Path(path), pointer)
    return pointer


def read_pointer(path: str | Path) -> Path:
    """The folder that a pointer names. Raises InputError when it is gone or holds something else by now."""
    try:
        pointer = json.loads(Path(path).read_text())
        folder = Path(pointer["path"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: is no pointer to a folder; run the step before again, without its cache"
        ) from None
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is gone, although an earlier run made it; run again without the cache, or put it back"
        )
    wanted = pointer.get("manifest_sha256")
    manifest = folder / "manifest.json"
    if wanted is not None and (not manifest.is_file() or sha256_file(manifest) != wanted):
        raise InputError(f"{folder}: was changed since an earlier run made it; run again without the cache")
    return folder


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a flat record; what is unavailable (null) or no number is left out."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def log_metrics(artifact: Any, values: Mapping[str, Any]) -> None:
    """Fills a kfp Metrics artifact: scalars that the Kubeflow UI shows, and a file (without one nothing is cached)."""
    shown = numbers(values)
    for key, value in shown.items():
        artifact.log_metric(key, value)
    write_json_atomic(Path(artifact.path), shown)


def picture(path: Path, width: int = PICTURE_WIDTH) -> str:
    """A picture as Markdown that needs no other file; empty when there is none."""
    from PIL import Image

    if not Path(path).is_file():
        return ""
    with Image.open(path) as image:
        image = image.convert("RGB")
        if image.width > width:
            image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"![{Path(path).stem}](data:image/jpeg;base64,{data})"


def table(rows: Mapping[str, Any], head: Sequence[str] = ("", "")) -> str:
    """A Markdown table of two columns."""

    def shown(value: Any) -> str:
        text = (
            "not available" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
        )
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {key} | {shown(value)} |" for key, value in rows.items())])


def write_summary(path: str | Path, title: str, *parts: str) -> None:
    """A Markdown artifact."""
    text = "\n\n".join([f"# {title}", *(part for part in parts if part)])
    write_bytes_atomic(Path(path), (text + "\n").encode())


def resolve_init_from(path: str) -> Path:
    """The weights to start from: relative to the current folder, or else to where this software is."""
    here = Path(path)
    return here if here.is_absolute() or here.is_file() else Path(__file__).parent.parent / path


def is_run_id(text: str) -> bool:
    """Whether it can name a folder, a git branch and the value of a label."""
    return bool(_RUN_ID.fullmatch(text)) and ".." not in text and not text.endswith(".lock")


def run_folder(workspace: str | Path, run_id: str) -> Path:
    """Where a run keeps its own records. Raises InputError for an id that would name another folder."""
    if not is_run_id(run_id):
        raise InputError(
            f"run_id must be at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit,"
            f" without '..' and without '.lock' at its end, not {run_id!r}"
        )
    return Path(workspace) / "runs" / run_id


def named_outputs(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """A component's several output parameters, as kfp wants them."""
    return namedtuple("Outputs", list(values))(**values)


@contextlib.contextmanager
def params_file(text: str) -> Iterator[Path]:
    """A params file with this text, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="get3d-params-") as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(text)
        yield path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a step wrote. Raises InputError."""
    try:
        value = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the step before again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object; run the step before again")
    return value
