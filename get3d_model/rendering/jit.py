"""How kernels are compiled: without the GIL, with the machine code cached beside the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., None]) -> Callable[..., Any]:
    """Compiles `function` at its first call.

    A kernel may call kernels of its own file only: numba renews the cache by the date of that one file.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Neither the package nor the home directory can be written (a container with a read-only root):
        # compiled anew in every process, about ten seconds. NUMBA_CACHE_DIR names another place.
        return numba.njit(nogil=True)(function)
