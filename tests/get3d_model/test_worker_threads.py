"""Kept threads work on in a forked child, which inherits none of them."""

from __future__ import annotations

import os
import threading

from get3d_model.worker_threads import WorkerThreads


def test_a_forked_child_has_threads_of_its_own() -> None:
    threads = WorkerThreads("test-worker", 2)
    assert threads.pool().submit(lambda: threading.current_thread().name).result(10).startswith("test-worker")
    assert threads.pool() is threads.pool()
    child = os.fork()
    if child == 0:
        try:
            os._exit(threads.pool().submit(lambda: 7).result(10))
        finally:
            os._exit(1)  # the inherited pool has no thread that could answer
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
