"""How much memory a worker takes, and how much it may. Imports nothing heavy: `pool.py` uses it.

Linux tells in /proc; elsewhere there is no limit.
"""

from __future__ import annotations

import os
from pathlib import Path

# Of what is free when a run starts.
SHARE = 0.9
LEAST_BYTES = 2**30


def resident_bytes(pid: int) -> int:
    """Memory in use by a process and its children (a worker's Blender); 0 when it is gone or cannot be known."""
    try:
        total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError, IndexError):
        return 0
    return total + sum(resident_bytes(int(child)) for child in children)


def worker_limit(workers: int) -> int | None:
    """Bytes that one of `workers` may take so that all together fit; None when the system does not tell."""
    free = _available()
    return None if free is None else max(LEAST_BYTES, int(free * SHARE) // workers)


def _available() -> int | None:
    """Free memory of the machine or, in a container with less, of that."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            # The page cache counts as used and goes when it has to; what remains is at least this.
            stat = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
            cache = sum(
                int(line.split()[1]) for line in stat if line.startswith(("inactive_file ", "active_file "))
            )
            found.append(int(limit) - used + cache)
    except (OSError, ValueError, IndexError):
        pass
    return min(found) if found else None
