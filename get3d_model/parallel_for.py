"""Runs a nogil kernel over units of work on several threads.

Numba's own threading layers do not fit here: `workqueue` aborts the process when two Python threads enter it
together (a Triton model and a data loader do), the GNU OpenMP layer aborts in a forked data loader worker,
and TBB is an extra install. Kernels that release the GIL on a plain thread pool have none of these limits,
start in tens of microseconds and compile in a fraction of the time of `parallel=True`.

Units are handed out in contiguous runs to whoever is free. Kernels write only to memory that belongs to their
unit, so results depend neither on the number of threads nor on their timing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from get3d_model.worker_threads import WorkerThreads

# Several, so that units of unequal cost even out.
RUNS_PER_THREAD = 4

_threads = WorkerThreads("kernels")


def parallel_for(kernel: Callable[..., None], units: int, threads: int, *arguments: object) -> None:
    """Calls `kernel(first_unit, end_unit, *arguments)` so that every unit in [0, units) runs exactly once.

    The calling thread works too, and does not wait for threads that have not begun: on a busy machine it does
    everything itself. The first exception is raised after all runs that had begun have ended.
    """
    if units <= 0:
        return
    if threads <= 1 or units == 1:
        kernel(0, units, *arguments)
        return
    runs = min(units, RUNS_PER_THREAD * threads)
    # Drawing a number is atomic: `count` is one C call.
    numbers = itertools.count()

    def work() -> None:
        while (run := next(numbers)) < runs:
            kernel(units * run // runs, units * (run + 1) // runs, *arguments)

    pool = _threads.pool()
    helpers = [pool.submit(work) for _ in range(min(threads, runs) - 1)]
    try:
        work()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [error for helper in begun if (error := helper.exception()) is not None]
    if errors:
        raise errors[0]
