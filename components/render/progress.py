"""Progress on stderr: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


def log(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Counts finished items; a context manager."""

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done = total, unit, 0
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=unit, disable=not self._terminal, dynamic_ncols=True)
        self._begin = self._last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if not self._terminal and self._done < self._total and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            left = (now - self._begin) / self._done * (self._total - self._done)
            log(f"{self._done} of {self._total} {self._unit}s, about {left:.0f} s left")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
