"""SIGINT and SIGTERM end a training between two steps, saved."""

from __future__ import annotations

import signal
import threading
from pathlib import Path


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the run is saved and can be resumed. `signal_number` says which."""

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(
            f"interrupted by {signal.Signals(signal_number).name}; saved {checkpoint}, run again to resume"
        )
        self.signal_number = signal_number


class SignalFlag:
    """Remembers SIGINT or SIGTERM instead of dying in the middle of a step; a second one is not caught."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> SignalFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: object) -> None:
        self.number = number
        signal.signal(number, self._previous[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
