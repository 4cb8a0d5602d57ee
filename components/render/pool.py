"""Worker processes for tasks that may crash, hang or be killed: each costs its own task and no other.

`concurrent.futures` gives the whole pool up when one process dies and cannot stop a hanging task. This module
imports nothing heavy, so that a worker can set its environment before the libraries read it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from components.render.memory import resident_bytes
from get3d_model.errors import InputError

# Processes are spawned: a forked one would inherit locks and threads of whatever the caller has loaded.
_CONTEXT = multiprocessing.get_context("spawn")
_SINGLE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


# How often the memory of busy workers is looked at; a process fills a few hundred MB in that time at most.
MEMORY_INTERVAL_S = 0.1


class FatalError(Exception):
    """Raised by a handler when the whole run cannot go on (a full disk), with the message for the user."""


@dataclass(frozen=True)
class TaskResult:
    """How one task ended. reason: None when it was done, else one line that says why not."""

    task: Any
    reason: str | None


@dataclass
class _Worker:
    process: Any
    connection: Connection
    ready: bool = False
    task: Any = None
    busy: bool = False
    deadline: float = float("inf")


def run_tasks(
    tasks: Iterable[Any],
    make_handler: Callable[[], Callable[[Any], None]],
    workers: int,
    task_timeout_s: float,
    memory_limit: int | None = None,
) -> Iterator[TaskResult]:
    """Runs `handler(task)` for every task in worker processes; yields results in the order they end.

    make_handler: a picklable top-level function (or partial of one), called once in every worker.
    memory_limit: bytes that a worker with its children may take.
    A handler's exception, the death of its process, running longer than `task_timeout_s` and taking more memory all become
    the task's reason; a new process takes the place of the lost one. All processes are gone when the
    generator is exhausted, closed or left by an exception.
    Raises InputError when `make_handler` does or a handler raises FatalError; RuntimeError when a worker does
    not start.
    """
    waiting = deque(tasks)
    pickled = pickle.dumps(make_handler)
    pool: list[_Worker] = []
    try:
        while waiting or any(worker.busy for worker in pool):
            pool = [worker for worker in pool if not worker.connection.closed]
            needed = min(workers, len(waiting) + sum(worker.busy for worker in pool))
            pool += [_start(pickled) for _ in range(needed - len(pool))]
            for worker in pool:
                if worker.ready and not worker.busy and waiting:
                    worker.task, worker.busy = waiting.popleft(), True
                    worker.deadline = time.monotonic() + task_timeout_s
                    # A worker that is dead already shows as an end of file below.
                    with contextlib.suppress(OSError):
                        worker.connection.send(worker.task)
            earliest = min(worker.deadline for worker in pool)
            timeout = None if earliest == float("inf") else max(0.0, earliest - time.monotonic())
            if memory_limit is not None and timeout is not None:
                timeout = min(timeout, MEMORY_INTERVAL_S)
            readable = set(wait([worker.connection for worker in pool], timeout))
            for worker in pool:
                result = None
                if worker.connection in readable:
                    result = _receive(worker)
                elif worker.busy and time.monotonic() >= worker.deadline:
                    reason = (
                        f"took longer than {task_timeout_s:g} s; raise --mesh-timeout or simplify the mesh"
                    )
                    result = TaskResult(worker.task, reason)
                    _stop(worker)
                elif worker.busy and memory_limit and resident_bytes(worker.process.pid) > memory_limit:
                    reason = (
                        f"took more than {memory_limit / 1e9:.1f} GB of memory; raise --max-memory, use fewer workers or"
                        " simplify the mesh"
                    )
                    result = TaskResult(worker.task, reason)
                    _stop(worker)
                if result is not None:
                    worker.busy, worker.deadline = False, float("inf")
                    yield result
    finally:
        for worker in pool:
            worker.process.kill()
        for worker in pool:
            _stop(worker)


def _start(pickled: bytes) -> _Worker:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_worker_main, args=(theirs, pickled), daemon=True)
    # Ctrl-C reaches the whole process group, and the parent decides what it means. The child inherits the
    # blocked signal; a handler of its own would come too late, after the imports.
    resource_tracker.ensure_running()  # it would unblock the signal when it is started in between
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _receive(worker: _Worker) -> TaskResult | None:
    """The result that a readable connection holds; None when no task has ended."""
    try:
        kind, text = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        _stop(worker)
        if worker.busy:
            return TaskResult(worker.task, _death_reason(code))
        if not worker.ready and code == -signal.SIGKILL:
            raise InputError(
                "a worker was killed while starting, for lack of memory; use fewer workers"
            ) from None
        if not worker.ready:
            raise RuntimeError(f"a worker process ended while starting (exit code {code})") from None
        return None
    if kind == "ready":
        worker.ready = True
        return None
    if kind == "fatal":
        raise InputError(text)
    if kind == "start-failed":
        raise RuntimeError(f"a worker process could not start:\n{text}")
    return TaskResult(worker.task, None if kind == "done" else text)


def _death_reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the worker process was killed, most likely for lack of memory; use fewer workers"
    if code < 0:
        return f"the worker process crashed with {signal.Signals(-code).name}"
    return f"the worker process ended with exit code {code}"


def _worker_main(connection: Connection, pickled: bytes) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update(_SINGLE_THREAD)
    try:
        handler = pickle.loads(pickled)()
    except InputError as error:
        connection.send(("fatal", str(error)))
        return
    except BaseException:
        connection.send(("start-failed", traceback.format_exc()))
        return
    connection.send(("ready", ""))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(run_one(handler, task))


def run_one(handler: Callable[[Any], None], task: Any) -> tuple[str, str]:
    """How a task ends in a worker that survives it: ("done" | "failed" | "fatal", reason)."""
    try:
        handler(task)
    except InputError as error:
        return "failed", str(error)
    except FatalError as error:
        return "fatal", str(error)
    except MemoryError:
        return "failed", "there is not enough memory for it; use fewer workers"
    except Exception as error:
        # Libraries raise all kinds of errors for damaged files; the run goes on and the report names it.
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return "failed", f"unexpected {line}"
    return "done", ""


def _die_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
