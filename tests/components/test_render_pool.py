import contextlib
import os

import pytest

from components.render.memory import LEAST_BYTES, resident_bytes, worker_limit
from components.render.pool import run_tasks
from get3d_model.errors import InputError
from tests.components.render_fakes import make_broken, make_dying, make_nothing, make_task_handler


def _run(tasks, workers=2, timeout=30.0):
    return {result.task: result.reason for result in run_tasks(tasks, make_task_handler, workers, timeout)}


def test_trouble_costs_its_own_task_only(tmp_path):
    good = [("write", str(tmp_path / str(i))) for i in range(6)]
    trouble = {
        ("bad", "x.glb is no mesh"): "x.glb is no mesh",
        ("bug", "key"): "unexpected KeyError: 'key'",
        ("memory", 0): "there is not enough memory for it; use fewer workers",
        ("kill", 0): "the worker process was killed, most likely for lack of memory; use fewer workers",
        ("segfault", 0): "the worker process crashed with SIGSEGV",
        ("exit", 3): "the worker process ended with exit code 3",
        ("exit", 0): "the worker process ended with exit code 0",
        ("sleep", 60): "took longer than 1 s; raise --mesh-timeout or simplify the mesh",
    }
    tasks = [*good[:3], *trouble, *good[3:]]
    assert _run(tasks, timeout=1.0) == {**dict.fromkeys(good), **trouble}
    written = [(tmp_path / str(i)).read_text().split() for i in range(6)]
    assert {threads for _, threads in written} == {"1"}
    assert str(os.getpid()) not in {pid for pid, _ in written}


def test_a_task_that_takes_too_much_memory_costs_only_itself(tmp_path):
    tasks = [("hog", 3000), ("write", str(tmp_path / "a")), ("hog", 40)]
    results = run_tasks(tasks, make_task_handler, 1, 60.0, 600 * 10**6)
    reasons = {result.task: result.reason for result in results}
    assert "took more than 0.6 GB of memory; raise --max-memory" in reasons["hog", 3000]
    assert reasons["hog", 40] is None and reasons[tasks[1]] is None


def test_the_share_of_a_worker():
    whole, half = worker_limit(1), worker_limit(2)
    assert whole is None or (whole >= LEAST_BYTES and half <= whole)
    assert resident_bytes(os.getpid()) > 10**7 and resident_bytes(2**22 + 1) == 0


def test_no_tasks():
    assert _run([]) == {}


def test_more_workers_than_tasks(tmp_path):
    assert _run([("write", str(tmp_path / "a"))], workers=8) == {("write", str(tmp_path / "a")): None}


def test_what_stops_the_whole_run():
    with pytest.raises(InputError, match="disk is full"):
        _run([("fatal", "disk is full"), ("sleep", 0)])
    with pytest.raises(InputError, match="no such device"):
        list(run_tasks(["a"], make_nothing, 1, 1.0))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        list(run_tasks(["a"], make_broken, 1, 1.0))
    with pytest.raises(RuntimeError, match=r"ended while starting \(exit code 7\)"):
        list(run_tasks(["a"], make_dying, 1, 1.0))


def test_leaving_early_stops_the_workers(tmp_path):
    results = run_tasks([("write", str(tmp_path / "pid")), ("sleep", 60)], make_task_handler, 1, 100.0)
    with contextlib.closing(results):
        assert next(results).reason is None
        pid = int((tmp_path / "pid").read_text().split()[0])
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
