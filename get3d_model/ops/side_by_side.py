"""Independent parts of a network beside each other on a GPU.

The two discriminators, or geometry and texture of the separate generator, do not need each other's results, and at low
resolutions a layer of one fills a fraction of the device for a few microseconds. While a CUDA graph is recorded
(`recording_side_by_side`), parts get a stream each, so that the graph knows no order between them. Outside of a
recording they run one after the other: there the host, which launches kernel by kernel, is the limit anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from get3d_model.structures import tensors_of

_recording: str | None = None
_taken = 0
"""Streams that parts being recorded have: parts within parts get others."""


@contextmanager
def recording_side_by_side(lane: str = "main") -> Iterator[None]:
    """Parts have streams of their own inside the block; backward passes follow their forward passes.

    lane: recordings that may be replayed at the same time need different ones, since libraries keep a workspace for
    every stream that they were recorded on.
    """
    global _recording
    _recording = lane
    try:
        yield
    finally:
        _recording = None


def side_by_side(parts: Sequence[Callable[[], Any]], shared: Sequence[Tensor]) -> list[Any]:
    """The results of parts that do not depend on each other: tensors, or tuples and dataclasses of them.

    shared: every tensor that the parts read and that is neither a parameter nor made by them.
    """
    if _recording is None or not shared[0].is_cuda:
        return [part() for part in parts]
    device = shared[0].device
    main = torch.cuda.current_stream(device)
    with _streams(device, _recording, len(parts) - 1) as others:
        for stream in others:
            stream.wait_stream(main)
            # The allocator must not hand their memory on while another stream may still read it, backwards included.
            for tensor in shared:
                tensor.record_stream(stream)
        results = []
        for part, stream in zip(parts, [main, *others], strict=True):
            with torch.cuda.stream(stream):
                results.append(part())
        for result, stream in zip(results[1:], others, strict=True):
            main.wait_stream(stream)
            for tensor in tensors_of(result):
                tensor.record_stream(main)
    return results


@contextmanager
def _streams(device: torch.device, lane: str, count: int) -> Iterator[list[torch.cuda.Stream]]:
    global _taken
    first, _taken = _taken, _taken + count
    try:
        yield [lane_stream(device, lane, first + index) for index in range(count)]
    finally:
        _taken = first


@cache
def lane_stream(device: torch.device, lane: str, index: int) -> torch.cuda.Stream:
    """The same one for as long as the process lives: PyTorch has 32 of them and then begins again, so that streams made
    anew for every recording would one day be shared by two lanes."""
    return torch.cuda.Stream(device)
