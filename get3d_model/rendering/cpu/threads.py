"""Runs a nogil kernel over units of work on several threads.

Numba's own threading layers do not fit here: `workqueue` aborts the process when two Python threads enter it
together (a Triton model and a data loader do), the GNU OpenMP layer aborts in a forked data loader worker,
and TBB is an extra install. Kernels that release the GIL on a plain thread pool have none of these limits,
start in tens of microseconds and compile in a fraction of the time of `parallel=True`.

Units are handed out in contiguous runs. Kernels write only to memory that belongs to their unit, so results
depend neither on the number of threads nor on their timing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child inherits the pool object but none of its threads."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    pool = _pool
    if pool is None:
        # Idle threads cost nothing and are started on demand, so the pool is as wide as the machine.
        pool = _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="rasterizer")
    return pool


def parallel_for(kernel: Callable[..., None], units: int, threads: int, *arguments: object) -> None:
    """Calls `kernel(first_unit, end_unit, *arguments)` so that every unit in [0, units) runs exactly once.

    The calling thread takes a share. Two runs per thread even out units of unequal cost. The first
    exception of any run is raised, after all runs have ended.
    """
    if units <= 0:
        return
    if threads <= 1 or units == 1:
        kernel(0, units, *arguments)
        return
    runs = min(units, 2 * threads)
    bounds = [units * run // runs for run in range(runs + 1)]
    # The caller's own share is one of `threads` workers: the pool gets the first (threads - 1) / threads.
    mine = max(1, runs // threads)
    pool = _get_pool()
    futures = [pool.submit(kernel, bounds[run], bounds[run + 1], *arguments) for run in range(runs - mine)]
    try:
        kernel(bounds[runs - mine], units, *arguments)
    finally:
        errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
