"""A function of tensors as CUDA graphs: sampling launches some hundred small kernels, which takes the host longer
than they run.

One graph for every set of input shapes, recorded at its first call and replayed with one launch ever after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARMUP_RUNS = 2
# Every recording keeps its inputs and outputs; other shapes run as they come.
MAX_RECORDINGS = 8


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class RecordedFunction:
    """Calls `function`, tensors on one CUDA device to a tuple of tensors without gradients, by CUDA graphs.

    The weights that it reads must keep their places in memory. Results belong to the caller. Safe to call from
    several threads, all on the same stream.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        key = tuple(item.shape for item in inputs)
        with self._lock:
            recording = self._recordings.get(key)
            if recording is None:
                if len(self._recordings) == MAX_RECORDINGS:
                    return self._function(*inputs)
                recording = self._recordings[key] = self._record(inputs)
            for static, given in zip(recording.inputs, inputs, strict=True):
                static.copy_(given)
            recording.graph.replay()
            # The next replay writes into the same memory.
            return tuple(item.clone() for item in recording.outputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        static = tuple(item.detach().clone() for item in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Libraries choose algorithms and allocate workspaces at a first run; not while recording.
            for _ in range(WARMUP_RUNS):
                self._function(*static)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = self._function(*static)
        return _Recording(graph, static, outputs)
