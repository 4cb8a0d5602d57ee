"""Memory of the serving process: what is freed is kept for the next request."""

from __future__ import annotations

import ctypes

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_THRESHOLD_BYTES = 32 << 20  # the highest that glibc takes
_TRIM_THRESHOLD_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Asks glibc to keep freed blocks instead of giving them back; False where there is no glibc.

    A mesh's tensors are megabytes each, and of the same sizes again and again: by default every one is mapped anew,
    and the kernel clears its pages, which took up to a tenth of the processor time. One arena for all threads, so that
    they reuse each other's blocks. The process keeps its highest footprint, up to a gigabyte of it free.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        [
            mallopt(_M_ARENA_MAX, 1),
            mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES),
            mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES),
        ]
    )
