"""Work on the device beside what is issued after it.

The discriminators' phase and the generator of the next step need nothing of each other. One is made of a few large
convolutions, the other of hundreds of small kernels that leave part of the device free: on two streams they share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from get3d_model.structures import tensors_of


class Aside:
    """A second stream of one CUDA device; on a CPU, and where it is not wanted, everything runs in its order."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._stream = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None

    @contextmanager
    def running(self, *given: Any) -> Iterator[None]:
        """What is issued inside runs after all that was issued before, and beside what is issued after the block.

        given: what was made outside and is read inside (tensors, also nested); its memory is not used anew before.
        """
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        for tensor in tensors_of(given):
            if tensor.is_cuda:
                tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is issued from now on runs after all that was issued inside. The host does not wait."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
