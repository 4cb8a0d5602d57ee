"""`make_finite` as one pass that reads every value once and writes only what was not finite.

Shape legend: T tensors, C chunks of them
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 4096
BYTES = 4
REMEMBERED = 8
"""Sets of tensors whose chunks stay on the device: recorded graphs leave the same gradients at every step."""


@triton.jit
def _finite_kernel(addresses_C, sizes_C, squares_C, replaced_C, limit, CHUNK_: tl.constexpr):
    chunk = tl.program_id(0)
    values = tl.load(addresses_C + chunk).to(tl.pointer_type(tl.float32))
    at = tl.arange(0, CHUNK_)
    ok = at < tl.load(sizes_C + chunk)
    value = tl.load(values + at, mask=ok, other=0.0)
    is_nan = value != value
    bad = is_nan | (tl.abs(value) == float("inf"))
    bound = tl.where(value > 0, limit, -limit)
    value = tl.where(bad, tl.where(is_nan, 0.0, bound), value)
    tl.store(values + at, value, mask=bad)
    tl.store(squares_C + chunk, tl.sum(value * value))
    tl.store(replaced_C + chunk, tl.sum(bad.to(tl.int32)))


@lru_cache(maxsize=REMEMBERED)
def _chunks(tensors: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(address, values) of every chunk, on the device. tensors: (address, values) of each."""
    addresses, sizes = [], []
    for address, count in tensors:
        firsts = np.arange(0, count, CHUNK, dtype=np.int64)
        addresses.append(address + firsts * BYTES)
        sizes.append(np.minimum(count - firsts, CHUNK).astype(np.int32))
    parts = (torch.from_numpy(np.concatenate(part)) for part in (addresses, sizes))
    if device.type == "cuda":
        parts = (part.pin_memory().to(device, non_blocking=True) for part in parts)
    return tuple(parts)


def make_finite_fused(tensors: Sequence[Tensor], limit: float) -> tuple[Tensor, Tensor]:
    """(norm, replaced); see `ops.finite`. Infinities become +-limit."""
    device = tensors[0].device
    key = tuple((tensor.data_ptr(), tensor.numel()) for tensor in tensors)
    addresses_C, sizes_C = _chunks(key, device)
    squares_C = torch.empty(len(addresses_C), device=device)
    replaced_C = torch.empty(len(addresses_C), device=device, dtype=torch.int32)
    _finite_kernel[(len(addresses_C),)](
        addresses_C, sizes_C, squares_C, replaced_C, limit, CHUNK_=CHUNK, num_warps=8
    )
    return squares_C.sum().sqrt(), replaced_C.sum()
