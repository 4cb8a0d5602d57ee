"""How kernels are compiled: without the GIL, with the machine code cached beside the source."""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial
from typing import Any

try:
    import numba
except ImportError:  # a GPU machine needs none of the kernels
    numba = None


def kernel(
    function: Callable[..., None] | None = None, *, fastmath: Set[str] = frozenset()
) -> Callable[..., Any]:
    """Compiles `function` at its first call. fastmath: what LLVM may do with floating-point numbers (its flags' names).

    A kernel may call kernels of its own file only: numba renews the cache by the date of that one file.
    """
    if function is None:
        return partial(kernel, fastmath=fastmath)
    if numba is None:
        return _missing(function)
    options = {"nogil": True, "fastmath": set(fastmath)}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package nor the home directory can be written (a container with a read-only root):
        # compiled anew in every process, about ten seconds. NUMBA_CACHE_DIR names another place.
        return numba.njit(**options)(function)


def _missing(function: Callable[..., None]) -> Callable[..., Any]:
    def fail(*arguments: object) -> None:
        raise ImportError(f"{function.__name__} runs on the CPU and needs the package numba; install it")

    return fail
