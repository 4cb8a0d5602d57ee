"""Freed memory stays with the serving process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from serving.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        # Together far more than what glibc keeps by itself: twice the largest block.
        [b"x" * (24 << 20) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
kept = keep_freed_memory()
faults()
print(kept, before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_blocks_that_come_again_are_not_mapped_again() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, before, after = result.stdout.split()
    assert kept == "True"
    # 98 304 pages, or 192 where the kernel makes them large.
    assert int(after) < 0.2 * int(before) and int(before) > 100
