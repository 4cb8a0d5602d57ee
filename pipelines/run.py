"""`get3d pipeline run`: the Kubeflow pipeline on this machine, with kfp's local runner; every step is a process.

WORKSPACE/meshes, datasets, training     what the steps share
WORKSPACE/runs/RUN_ID/                   plan.json, outcome.json, steps.json, log.txt
WORKSPACE/artifacts, cache               kfp's own: artifacts of every run, and which of them can be reused
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import secrets
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.artifacts import WATCHED_PROCESS, run_folder
from components.finish.main import OUTCOME_FILE, SUCCEEDED, finish, read_outcome
from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic
from monitoring.logs import RUN_ID
from pipelines.parameters import arguments_from
from pipelines.run_log import COLOUR, Timeline, logged

STOP_TIMEOUT_S = 60.0


def run_pipeline(args: argparse.Namespace) -> None:
    """Runs the pipeline and prints what became of it. Raises InputError when a step failed; KeyboardInterrupt."""
    given = arguments_from(args)
    workspace = args.workspace.absolute()
    run_id = args.run_id or _new_run_id()
    folder = run_folder(workspace, run_id)
    if (folder / OUTCOME_FILE).exists():
        if read_outcome(workspace, run_id)["state"] == SUCCEEDED:
            raise InputError(f"run {run_id} is there already ({folder}); give another --run-id, or none")
        # One that failed or was stopped is continued by the same command.
        (folder / OUTCOME_FILE).unlink()
    folder.mkdir(parents=True, exist_ok=True)
    timeline = Timeline()
    started = time.monotonic()
    print(f"run {run_id} in {workspace}; the whole log is {folder / 'log.txt'}", flush=True)
    try:
        with _stopping(), _named(run_id), logged(folder / "log.txt", timeline, args.verbose):
            failure = _execute(args, given, workspace, run_id)
    except KeyboardInterrupt:
        # kfp's local runner knows no exit handler for that.
        finish(workspace, run_id, "INTERRUPTED")
        raise
    finally:
        write_json_atomic(
            folder / "steps.json", {"seconds": time.monotonic() - started, "steps": timeline.steps}
        )
    print(timeline.describe())
    print(
        f"run {run_id}: {'failed' if failure else 'finished'} in {time.monotonic() - started:.0f} s; {folder}"
    )
    if failure:
        raise InputError(f"{failure}; the log is {folder / 'log.txt'}; the same command again continues")


def _new_run_id() -> str:
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _execute(args: argparse.Namespace, given: dict[str, Any], workspace: Path, run_id: str) -> str:
    """Runs the pipeline; returns why it failed, or nothing."""
    from kfp import local

    from pipelines.training_pipeline import PipelineOptions, build_pipeline

    for name in ("meshes", "served_repository"):
        if given.get(name) and "://" not in given[name]:
            given[name] = str(Path(given[name]).absolute())
    # A step that fails for a reason that can pass is run again by hand here: that continues, too.
    pipeline = build_pipeline(PipelineOptions(workspace=str(workspace), retries=0))
    # kfp's documentation of an unfit image: ours is not used here.
    warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(workspace / "artifacts"),
        enable_caching=not args.no_cache,
        cache_root=str(workspace / "cache"),
    )
    parameters = {
        **given,
        "run_id": run_id,
        "workspace": str(workspace),
        "render_workers": args.render_workers,
    }
    try:
        pipeline(**parameters)
    except RuntimeError as error:
        # kfp's own word for a task that failed; the task's message is in the log above.
        return COLOUR.sub("", str(error)).rstrip(".")
    return ""


@contextlib.contextmanager
def _named(run_id: str) -> Iterator[None]:
    """The steps' records say which run they belong to (`monitoring.logs`)."""
    given = os.environ.get(RUN_ID)
    os.environ[RUN_ID] = run_id
    try:
        yield
    finally:
        if given is None:
            del os.environ[RUN_ID]
        else:
            os.environ[RUN_ID] = given


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the steps that run, whichever kfp still starts, and then the run."""
    over = threading.Event()
    stopper: list[threading.Thread] = []

    def interrupt(number: int, frame: object) -> None:
        if not stopper:
            # At once and in a thread: kfp's loop waits for its steps before the exception gets out of it.
            stopper.append(threading.Thread(target=_stop_children, args=(over,)))
            stopper[0].start()
        raise _Stopped(number)

    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, signal.SIGINT) if main else ()
    previous = {number: signal.signal(number, interrupt) for number in signals}
    # Steps look whether this process is still there, for the case that it is killed.
    os.environ[WATCHED_PROCESS] = str(os.getpid())
    try:
        yield
    finally:
        over.set()
        for thread in stopper:
            thread.join()
        os.environ.pop(WATCHED_PROCESS, None)
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Stopped(KeyboardInterrupt):
    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped; the same command again continues")
        self.signal_number = signal_number


def _stop_children(over: threading.Event) -> None:
    """SIGTERM to every process below this one, so that training saves; SIGKILL to those that do not go.

    Until the run is over, and then until none is left.
    """
    import psutil

    told: dict[psutil.Process, float] = {}
    while True:
        below = psutil.Process().children(recursive=True)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process not in told:
                    told[process] = time.monotonic()
                    process.terminate()
                elif time.monotonic() - told[process] > STOP_TIMEOUT_S:
                    process.kill()
        if over.is_set() and not below:
            return
        time.sleep(0.1)
