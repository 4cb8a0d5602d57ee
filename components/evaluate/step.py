"""What the evaluation and gate steps of a pipeline read from the evaluation's folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from components.artifacts import GATE_FILE, monitoring_steps, picture, read_json, run_folder
from get3d_model.errors import InputError
from get3d_model.files import atomic_path, clear_disk_errors, write_json_atomic

GENERATOR_FILE = "generator_ema.safetensors"
REPORT_FILE = "report.html"
DECISIONS = ("promote", "hold")


def weights(model: str) -> Path:
    """The weight file of a model artifact. Raises InputError."""
    path = Path(model) / GENERATOR_FILE
    if not path.is_file():
        raise InputError(f"{path}: no weights in the model artifact; run the training step again")
    return path


def metrics(folder: str) -> dict[str, Any]:
    return read_json(Path(folder) / "metrics.json")


def copy_report(folder: str, target: str) -> None:
    """Puts the page where the artifact store wants it. Raises InputError when the evaluation wrote none."""
    source = Path(folder) / REPORT_FILE
    if not source.is_file():
        raise InputError(f"{source}: the evaluation wrote no report; run it again")
    with atomic_path(Path(target)) as temporary:
        shutil.copyfile(source, temporary)


def pictures(folder: str) -> list[str]:
    """Pictures of samples that the evaluation left beside its report, as Markdown."""
    return [shown for path in sorted(Path(folder).glob("*.png")) if (shown := picture(path))]


def record_verdict(workspace: str, run_id: str, found: dict[str, Any]) -> None:
    """Leaves the decision where the exit handler finds it. Raises InputError when the folder cannot be written."""
    with clear_disk_errors(Path(workspace), "give the run a workspace that can be written"):
        write_json_atomic(run_folder(workspace, run_id) / GATE_FILE, found)


def verdict(folder: str, promote: str = "auto") -> dict[str, Any]:
    """{decision, reasons}: that of the gate's file, unless a person has decided. Tells Prometheus. Raises InputError."""
    path = Path(folder) / "gate.json"
    found = read_json(path)
    if found.get("decision") not in DECISIONS:
        raise InputError(
            f"{path}: decision must be one of {', '.join(DECISIONS)}, not {found.get('decision')!r}"
        )
    reasons = found.get("reasons", [])
    if not isinstance(reasons, list):
        raise InputError(
            f"{path}: reasons must be a list of lines, not {reasons!r}; run the evaluation again"
        )
    decision, reasons = found["decision"], [str(reason) for reason in reasons]
    monitoring_steps().report_gate(decision == "promote")
    if promote == "always":
        return {
            "decision": "promote",
            "reasons": [f"asked for, whatever the gate says ({decision})", *reasons],
        }
    if promote == "never":
        return {"decision": "hold", "reasons": [f"asked for, whatever the gate says ({decision})", *reasons]}
    return {"decision": decision, "reasons": reasons}
