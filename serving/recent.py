"""The last different things that were seen, so many of them."""

from __future__ import annotations

import threading
from collections.abc import Hashable


class Recent:
    """Remembers `size` things; for any number of threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: dict[Hashable, None] = {}
        self._lock = threading.Lock()

    def is_new(self, thing: Hashable) -> bool:
        """Whether it is not among those remembered; from now on it is the last of them."""
        with self._lock:
            new = thing not in self._seen
            self._seen.pop(thing, None)
            self._seen[thing] = None
            if len(self._seen) > self._size:
                del self._seen[next(iter(self._seen))]
        return new
