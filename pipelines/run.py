"""`get3d pipeline run`: the Kubeflow pipeline on this machine, with kfp's local runner; every step is a process.

WORKSPACE/meshes, datasets, training     what the steps share
WORKSPACE/runs/RUN_ID/                   plan.json, outcome.json, steps.json, log.txt
WORKSPACE/artifacts, cache               kfp's own: artifacts of every run, and which of them can be reused
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from components.artifacts import WATCHED_PROCESS, run_folder
from components.finish.main import OUTCOME_FILE, finish
from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic
from pipelines.parameters import arguments_from

STOP_TIMEOUT_S = 20.0
_COLOUR = re.compile(r"\x1b\[\d+m")
_STARTED = re.compile(r"Executing task '([^']+)'")
_FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
_CACHED = re.compile(r"Task (\S+) cache hit")


class Timeline(logging.Filter):
    """Reads kfp's own log as it comes: which steps ran, for how long, and which were taken from the cache.

    Steps of one name that run at the same time are told apart by their thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self._running: dict[tuple[str, int], tuple[dict[str, Any], float]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        text = _COLOUR.sub("", record.getMessage())
        with self._lock:
            if match := _CACHED.match(text):
                self.steps.append({"step": match[1], "state": "CACHED", "seconds": 0.0})
            elif match := _STARTED.match(text):
                step = {"step": match[1], "state": "RUNNING", "seconds": 0.0}
                self.steps.append(step)
                self._running[match[1], threading.get_ident()] = step, time.monotonic()
            elif match := _FINISHED.match(text):
                step, started = self._running.pop((match[1], threading.get_ident()), ({}, time.monotonic()))
                step |= {"state": match[2], "seconds": round(time.monotonic() - started, 2)}
        return True

    def describe(self) -> str:
        """One line per step, in the order in which they began."""
        return "\n".join(f"  {s['step']:<16} {s['state']:<8} {s['seconds']:8.1f} s" for s in self.steps)


class Tee:
    """Standard output during a run: everything goes to the log file, and what a person wants to see to the terminal."""

    def __init__(self, terminal: TextIO, log: TextIO, verbose: bool) -> None:
        self._terminal, self._log, self._verbose = terminal, log, verbose
        self._partial, self._quiet = "", False
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            self._log.write(text)
            if self._verbose:
                self._terminal.write(text)
                return len(text)
            *lines, self._partial = (self._partial + text).split("\n")
            for line in lines:
                if self._wanted(_COLOUR.sub("", line)):
                    self._terminal.write(line + "\n")
        return len(text)

    def _wanted(self, line: str) -> bool:
        """Leaves out what kfp prints about itself: inputs and outputs of every step as JSON."""
        if "[KFP Executor" in line:
            self._quiet = "Got executor_input" in line
            return False
        if " - INFO - " in line:
            self._quiet = "outputs:" in line
            return bool(re.search(r"Executing task|finished with|cache hit|Retrying|Skipping", line))
        if line.startswith("-----") or not line.strip():
            self._quiet = False
            return False
        if self._quiet and (line == "    }" or line.startswith("    }")):
            self._quiet = False
            return False
        return not self._quiet

    def flush(self) -> None:
        with self._lock:
            self._log.flush()
            self._terminal.flush()

    def isatty(self) -> bool:
        return False


def run_pipeline(args: argparse.Namespace) -> None:
    """Runs the pipeline and prints what became of it. Raises InputError when a step failed; KeyboardInterrupt."""
    workspace = args.workspace.absolute()
    run_id = args.run_id or _new_run_id()
    folder = run_folder(workspace, run_id)
    if (folder / OUTCOME_FILE).exists():
        raise InputError(f"run {run_id} is there already ({folder}); give another --run-id, or none")
    folder.mkdir(parents=True, exist_ok=True)
    timeline = Timeline()
    started = time.monotonic()
    print(f"run {run_id} in {workspace}; the whole log is {folder / 'log.txt'}", flush=True)
    try:
        with _stopping(), _logged(folder / "log.txt", timeline, args.verbose):
            failure = _execute(args, workspace, run_id)
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


def _execute(args: argparse.Namespace, workspace: Path, run_id: str) -> str:
    """Runs the pipeline; returns why it failed, or nothing."""
    from kfp import local

    from pipelines.training_pipeline import PipelineOptions, build_pipeline

    given = arguments_from(args)
    for name in ("meshes", "served_repository"):
        if given.get(name):
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
        return _COLOUR.sub("", str(error)).rstrip(".")
    return ""


@contextlib.contextmanager
def _logged(path: Path, timeline: Timeline, verbose: bool) -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    with open(path, "a") as log:
        tee = Tee(sys.stdout, log, verbose)
        handler = logging.StreamHandler(tee)
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s", "%H:%M:%S"))
        root.setLevel(logging.INFO)
        root.handlers[:] = [handler]
        root.addFilter(timeline)
        try:
            with contextlib.redirect_stdout(tee):
                yield
        finally:
            root.removeFilter(timeline)
            root.setLevel(level)
            root.handlers[:] = handlers


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does, and whatever still runs when the run is over is stopped first."""

    def interrupt(number: int, frame: object) -> None:
        raise _Stopped(number)

    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, interrupt) if main else None
    # Steps look whether this process is still there, for the case that it is killed.
    os.environ[WATCHED_PROCESS] = str(os.getpid())
    try:
        yield
    except BaseException:
        _stop_children()
        raise
    finally:
        os.environ.pop(WATCHED_PROCESS, None)
        if main:
            signal.signal(signal.SIGTERM, previous)


class _Stopped(KeyboardInterrupt):
    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped; the same command again continues")
        self.signal_number = signal_number


def _stop_children() -> None:
    """SIGTERM to every process below this one, so that training saves; SIGKILL to those that do not go."""
    import psutil

    below = psutil.Process().children(recursive=True)
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(below, STOP_TIMEOUT_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
