"""Time of work on a CUDA device, between events on its stream."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def median_ms(function: Callable[[], object], repeats: int = 9) -> float:
    """The median of `repeats` runs after two that do not count."""
    for _ in range(2):
        function()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
