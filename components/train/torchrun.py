"""Being one of torchrun's processes: what dies with it. No torch here."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun gives its processes."""
_PR_SET_PDEATHSIG = 1


def end_with_torchrun() -> None:
    """Has the kernel send SIGTERM, which saves and ends, when torchrun dies without having ended its processes."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
