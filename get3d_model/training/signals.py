"""SIGINT and SIGTERM end a training between two steps, saved."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

ECHO_S = 1.0


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the run is saved and can be resumed. `signal_number` says which."""

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(
            f"interrupted by {signal.Signals(signal_number).name}; saved {checkpoint}, run again to resume"
        )
        self.signal_number = signal_number


class SignalFlag:
    """Remembers SIGINT or SIGTERM instead of dying in the middle of a step; a second one of a kind is not caught.

    What comes within ECHO_S of the first is the same request: when torchrun dies, the kernel may signal its processes
    once for every thread it had.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._first_at: dict[int, float] = {}
        self._previous: dict[int, object] = {}

    def __enter__(self) -> SignalFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: object) -> None:
        self.number = number
        now = time.monotonic()
        if now - self._first_at.setdefault(number, now) > ECHO_S:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
