"""The signs of a batch of SDFs, one bit per shape: word w of a grid vertex holds shapes 32 w ... 32 w + 31.

An edge or a tetrahedron is so classified for 32 shapes with one look at each of its corners.

Shape legend: B batch, N grid vertices, W words = ceil(B / 32)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from get3d_model.ops.fused.common import cdiv

WORD = tl.constexpr(32)
SHAPES_PER_WORD = 32
BLOCK_VERTICES = 256


@triton.jit
def shapes_of_word(word, B):
    """How many shapes of the batch the word holds."""
    return tl.minimum(B - word * WORD, WORD)


@triton.jit
def _sign_bits_kernel(sdf_BN, bits, W, B, N, BOTH: tl.constexpr, BLOCK: tl.constexpr):
    word = tl.program_id(1)
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = vertex < N
    row = sdf_BN + word.to(tl.int64) * WORD * N
    positive = tl.zeros((BLOCK,), tl.int32)
    negative = tl.zeros((BLOCK,), tl.int32)
    for k in range(shapes_of_word(word, B)):
        value = tl.load(row + k * N + vertex, mask=ok, other=0.0)
        positive |= (value > 0).to(tl.int32) << k
        if BOTH:
            negative |= (value < 0).to(tl.int32) << k
    tl.store(bits + word.to(tl.int64) * N + vertex, positive, mask=ok)
    if BOTH:
        tl.store(bits + (W + word).to(tl.int64) * N + vertex, negative, mask=ok)


def sign_bits(sdf_BN: Tensor, negative: bool = False) -> Tensor:
    """(kinds, W, N) int32: bits of sdf > 0 and, if `negative`, of sdf < 0. sdf_BN: float32, contiguous."""
    batch, num = sdf_BN.shape
    words = cdiv(batch, SHAPES_PER_WORD)
    bits = torch.empty((1 + negative, words, num), device=sdf_BN.device, dtype=torch.int32)
    _sign_bits_kernel[(cdiv(num, BLOCK_VERTICES), words)](
        sdf_BN, bits, words, batch, num, BOTH=negative, BLOCK=BLOCK_VERTICES
    )
    return bits
