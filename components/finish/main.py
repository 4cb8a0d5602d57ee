"""`finish`, the exit handler of a pipeline run: records what became of it, and stops what still runs.

WORKSPACE/runs/RUN_ID/plan.json       what the run was to do
WORKSPACE/runs/RUN_ID/gate.json       what the gate decided, until the outcome has it
WORKSPACE/runs/RUN_ID/outcome.json    what became of it
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

from components.artifacts import GATE_FILE, PLAN_FILE, monitoring_steps, read_json, run_folder
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic

OUTCOME_FILE = "outcome.json"
SUCCEEDED = "SUCCEEDED"
_OUTCOMES = {SUCCEEDED: "succeeded", "INTERRUPTED": "interrupted", "CANCELED": "interrupted"}


def read_outcome(workspace: str | Path, run_id: str) -> dict[str, Any]:
    """What became of a run. Raises InputError."""
    return read_json(run_folder(workspace, run_id) / OUTCOME_FILE)


def finish(
    workspace: Path,
    run_id: str,
    state: str,
    error: str = "",
    scheduler: str = "local_cwd",
    profile: Path | None = None,
) -> dict[str, Any]:
    """Writes the outcome after having stopped the run's training job, if the run failed. Returns the outcome."""
    folder = run_folder(workspace, run_id)
    plan = folder / PLAN_FILE
    training = read_json(plan)["training"] if plan.is_file() else None
    stopped = ""
    if state != SUCCEEDED and training is not None:
        try:
            stopped = _stop_training(Path(training), scheduler, profile)
        except InputError as problem:
            # The outcome is recorded all the same; whoever reads it must know what may still run.
            stopped = f"could not be stopped: {problem}"
            print(f"the training job {stopped}", file=sys.stderr, flush=True)
    outcome = {
        "run_id": run_id,
        "state": state,
        "error": error,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "training_job": stopped or "none running",
        **_decision(folder / GATE_FILE),
    }
    write_json_atomic(folder / OUTCOME_FILE, outcome)
    # A run that is started again under its name, and does not come as far, has not decided anything.
    (folder / GATE_FILE).unlink(missing_ok=True)
    monitoring_steps().report_run(_OUTCOMES.get(state, "failed"))
    return outcome


def _decision(path: Path) -> dict[str, str]:
    """What the gate decided and why, if the run came so far."""
    if not path.is_file():
        return {"gate": "not reached"}
    found = read_json(path)
    return {"gate": found["decision"], "gate_reasons": "; ".join(found["reasons"])}


def _stop_training(training: Path, scheduler: str, profile: Path | None) -> str:
    """Stops the jobs that train into this folder; says which, or nothing."""
    # Here and not above: a run that succeeded has nothing to stop.
    from components.train.stop import stop_jobs

    return ", ".join(stop_jobs(training, scheduler, profile))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workspace", type=Path, required=True, help="folder that every step of the run saw")
    add("--run-id", required=True, help="name of the run")
    add("--state", required=True, help=f"{SUCCEEDED}, or what else the pipeline says")
    add("--error", default="", help="the pipeline's message")
    add("--scheduler", default="local_cwd", help="where training ran")
    add("--profile", type=Path, help="cluster profile, for a job on a cluster")


def run(args: argparse.Namespace) -> None:
    outcome = finish(args.workspace, args.run_id, args.state, args.error, args.scheduler, args.profile)
    gate = ": ".join(outcome[key] for key in ("gate", "gate_reasons") if outcome.get(key))
    print(
        f"run {args.run_id}: {outcome['state']}; gate: {gate}; training job: {outcome['training_job']}",
        flush=True,
    )


main = command_main("get3d finish", __doc__.splitlines()[0], add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
