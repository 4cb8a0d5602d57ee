"""Finds the rank that the others wait for, and ends the wait.

A collective operation waits for ever for a rank that hangs, and cannot say which one it is. So every rank counts the
collectives that it has come to, and a thread beside the training publishes the count in the store of the process
group. When a rank has not come further for too long, its thread compares the counts, names the rank that is behind,
and ends the process: the training thread sits inside the collective and cannot be interrupted. The launcher
(torchrun) then ends the others and, if allowed to, starts all again from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

EXIT_CODE = 1


class Store(Protocol):
    """What is used of torch.distributed's key-value stores."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


class Watchdog:
    """Watches the progress of one rank; `start` it, `arrive` before every collective, `stop` at the end."""

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        timeout_s: float,
        end: Callable[[str], None] | None = None,
    ) -> None:
        """store: of this thread alone. end: called with the message, by default prints it and ends the process."""
        self._store, self._rank, self._size, self._timeout_s = store, rank, size, timeout_s
        self._end = end or _end_process
        self._count, self._place, self._since = 0, "the start", time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="get3d-watchdog", daemon=True)

    def start(self) -> None:
        self._since = time.monotonic()
        self._thread.start()

    def arrive(self, place: str) -> None:
        """Called by the training thread before it enters a collective. place: named in the message."""
        self._count, self._place, self._since = self._count + 1, place, time.monotonic()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout_s / 10)):
            # Before its first collective a rank waits for nobody: it may read its data as long as it needs.
            waited_s = time.monotonic() - self._since if self._count else 0.0
            try:
                self._store.set(_key(self._rank), json.dumps([self._count, self._place]))
                message = self._diagnosis(waited_s) if waited_s > self._timeout_s else None
            except Exception as error:
                # The store is gone with its process; the collectives fail by themselves, unless they hang too.
                if waited_s <= self._timeout_s:
                    continue
                message = f"rank {self._rank} waits for {waited_s:.0f} s and cannot ask the others ({error})"
            if message and not self._stopped.is_set():
                self._end(message)
                return

    def _diagnosis(self, waited_s: float) -> str:
        counts: dict[int, int] = {}
        places: dict[int, str] = {}
        for rank in range(self._size):
            counts[rank], places[rank] = -1, "no sign of life"
            if self._store.check([_key(rank)]):
                counts[rank], places[rank] = json.loads(self._store.get(_key(rank)))
        furthest = max(counts.values())
        behind = [rank for rank, count in counts.items() if count < furthest]
        leader = next(rank for rank, count in counts.items() if count == furthest)
        who = f"rank {self._rank}: no progress for {waited_s:.0f} s"
        advice = (
            "see its log; raise training.rank_timeout_s if it only needs longer; "
            "under torchrun --max-restarts the run continues from the last checkpoint"
        )
        if not behind:
            return (
                f"{who}: all {self._size} ranks came to {places[leader]} and none got on: the network or a GPU hangs, or what "
                "follows takes longer (a first step compiles kernels; raise training.rank_timeout_s then)"
            )
        late = ", ".join(f"rank {rank} (last at: {places[rank]})" for rank in behind)
        return f"{who}: {places[leader]} still waits for {late}; {advice}"


def _key(rank: int) -> str:
    return f"progress/{rank}"


def _end_process(message: str) -> None:
    """Says why, and where this process stands, and ends it at once."""
    with contextlib.suppress(Exception):
        print(f"get3d train: {message}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
    os._exit(EXIT_CODE)
