"""Threads that are kept for the next piece of work, in processes that may fork."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor


class WorkerThreads:
    """Threads called `name`, at most `most` (one per processor unless given), started on demand."""

    def __init__(self, name: str, most: int | None = None) -> None:
        self._name, self._most = name, most or os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        # A forked child inherits the pool object but none of its threads.
        os.register_at_fork(after_in_child=self._forget)

    def pool(self) -> ThreadPoolExecutor:
        """The executor of this process."""
        pool = self._pool
        if pool is None:
            pool = self._pool = ThreadPoolExecutor(self._most, thread_name_prefix=self._name)
        return pool

    def _forget(self) -> None:
        self._pool = None
