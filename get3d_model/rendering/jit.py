"""How kernels are compiled: without the GIL, with the machine code cached beside the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import numba
except ImportError:  # a GPU machine needs none of the kernels
    numba = None


def kernel(function: Callable[..., None]) -> Callable[..., Any]:
    """Compiles `function` at its first call.

    A kernel may call kernels of its own file only: numba renews the cache by the date of that one file.
    """
    if numba is None:
        return _missing(function)
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Neither the package nor the home directory can be written (a container with a read-only root):
        # compiled anew in every process, about ten seconds. NUMBA_CACHE_DIR names another place.
        return numba.njit(nogil=True)(function)


def _missing(function: Callable[..., None]) -> Callable[..., Any]:
    def fail(*arguments: object) -> None:
        raise ImportError(f"{function.__name__} runs on the CPU and needs the package numba; install it")

    return fail
