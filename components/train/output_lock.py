"""Only one training writes into a folder: a lock beside it, which every process of that training holds.

The kernel releases it with the last of them, however they end. File systems without locks have none.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from get3d_model.errors import InputError

LOCK = "GET3D_LOCK"
"""Environment variable with a file that the processes of a job on one machine hold a lock on, as its launcher does."""


def lock_path(out: Path) -> Path:
    """Beside the folder, so that the lock is no part of the output."""
    out = Path(os.path.abspath(out))
    return out.with_name(f".{out.name}.train-job.lock")


def take(handle: IO[str]) -> bool:
    """Takes the lock for a training that begins; False when another one has it."""
    try:
        # First alone, then together with the processes of the job.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def join() -> IO[str] | bool | None:
    """The lock of this process' job, to be kept; False when a new launcher has it; None where there is none."""
    path = os.environ.get(LOCK)
    if not path:
        return None
    handle = open(path, "a")  # noqa: SIM115
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return handle


@contextmanager
def only_training(out: Path) -> Iterator[None]:
    """For a training without a launcher: its first process has the lock inside the block.

    Raises InputError when another training writes into `out`.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    path = lock_path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a")  # noqa: SIM115
    except OSError:
        # Only `out` itself may be ours to write; there the user has to take care.
        yield
        return
    with handle:
        if not take(handle):
            raise InputError(
                f"another training is writing into {out}; wait for its end, or give another --out"
            )
        yield
