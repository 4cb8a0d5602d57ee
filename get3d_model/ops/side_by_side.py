"""Independent parts of a network beside each other on a GPU.

The two discriminators, or the three networks of the separate generator, do not need each other's results, and at low
resolutions a layer of one fills a fraction of the device for a few microseconds. While a CUDA graph is recorded
(`recording_side_by_side`), parts get a stream each, so that the graph knows no order between them. Outside of a
recording they run one after the other: there the host, which launches kernel by kernel, is the limit anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

_recording = False


@contextmanager
def recording_side_by_side() -> Iterator[None]:
    """Parts have streams of their own inside the block; backward passes follow their forward passes."""
    global _recording
    _recording = True
    try:
        yield
    finally:
        _recording = False


def side_by_side(parts: Sequence[Callable[[], Tensor]], shared: Sequence[Tensor]) -> list[Tensor]:
    """The results of parts that do not depend on each other.

    shared: every tensor that the parts read and that is neither a parameter nor made by them.
    """
    if not _recording or not shared[0].is_cuda:
        return [part() for part in parts]
    device = shared[0].device
    main = torch.cuda.current_stream(device)
    streams = [main, *(_stream(device, index) for index in range(1, len(parts)))]
    for stream in streams[1:]:
        stream.wait_stream(main)
        # The allocator must not hand their memory on while another stream may still read it, backwards included.
        for tensor in shared:
            tensor.record_stream(stream)
    results = []
    for part, stream in zip(parts, streams, strict=True):
        with torch.cuda.stream(stream):
            results.append(part())
    for result, stream in zip(results[1:], streams[1:], strict=True):
        main.wait_stream(stream)
        result.record_stream(main)
    return results


@cache
def _stream(device: torch.device, index: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
