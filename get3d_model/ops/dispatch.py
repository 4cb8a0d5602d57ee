"""Which implementation of an operation a tensor gets.

On CUDA, where Triton is installed (it comes with torch's CUDA builds), fused kernels; elsewhere the PyTorch
composition, which defines what the kernels compute.
"""

from __future__ import annotations

import importlib.util
from functools import cache

from torch import Tensor


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def is_fused(tensor: Tensor) -> bool:
    """Whether operations on this tensor use the fused kernels."""
    return tensor.is_cuda and _triton_installed()
