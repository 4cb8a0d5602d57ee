"""Cross entropy of SDF signs along crossed grid edges; uncrossed edges cost two looks at sign bits.

Shape legend: B batch, N grid vertices, E grid edges, W words of shape bits (see `sign_bits`), P programs
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import cdiv
from get3d_model.ops.fused.sign_bits import WORD, shapes_of_word, sign_bits

BLOCK_E = 512


@triton.jit
def _crossings(bits_2WN, edges_E2, edge, word, W, N, E):
    """(a, b, bits of the shapes in which the signs at a and b differ); none for edges out of range."""
    ok = edge < E
    a = tl.load(edges_E2 + edge * 2, mask=ok, other=0).to(tl.int32)
    b = tl.load(edges_E2 + edge * 2 + 1, mask=ok, other=0).to(tl.int32)
    positive = bits_2WN + word.to(tl.int64) * N
    negative = bits_2WN + (W + word).to(tl.int64) * N
    differ = tl.load(positive + a) ^ tl.load(positive + b)
    differ |= tl.load(negative + a) ^ tl.load(negative + b)
    return a, b, differ


@triton.jit
def _cross_entropy(logit, target):
    """Binary cross entropy with a logit, stable for either sign."""
    return tl.maximum(logit, 0.0) - logit * target + tl.log(1.0 + tl.exp(-tl.abs(logit)))


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _sums_kernel(sdf_BN, edges_E2, bits_2WN, sums_P, counts_P, W, B, N, E, BLOCK: tl.constexpr):
    block, word = tl.program_id(0), tl.program_id(1)
    edge = block * BLOCK + tl.arange(0, BLOCK)
    a, b, differ = _crossings(bits_2WN, edges_E2, edge, word, W, N, E)
    row = sdf_BN + word.to(tl.int64) * WORD * N
    total = tl.zeros((BLOCK,), tl.float32)
    count = tl.zeros((BLOCK,), tl.int32)
    for k in range(shapes_of_word(word, B)):
        crossed = ((differ >> k) & 1) != 0
        at_a = tl.load(row + k * N + a, mask=crossed, other=0.0)
        at_b = tl.load(row + k * N + b, mask=crossed, other=0.0)
        entropy = _cross_entropy(at_a, (at_b > 0).to(tl.float32))
        entropy += _cross_entropy(at_b, (at_a > 0).to(tl.float32))
        total += tl.where(crossed, entropy, 0.0)
        count += crossed.to(tl.int32)
    program = word * tl.num_programs(0) + block
    tl.store(sums_P + program, tl.sum(total))
    tl.store(counts_P + program, tl.sum(count))


@triton.jit
def _mean_kernel(sums_P, counts_P, mean, share, P, BLOCK: tl.constexpr):
    """The mean, and one crossing's share of it."""
    total = tl.zeros((BLOCK,), tl.float32)
    count = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, P, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(sums_P + at, mask=at < P, other=0.0)
        count += tl.load(counts_P + at, mask=at < P, other=0)
    crossings = tl.maximum(tl.sum(count), 1).to(tl.float32)
    tl.store(mean, tl.sum(total) / crossings)
    tl.store(share, 1.0 / crossings)


@triton.jit
def _backward_kernel(grad, share, sdf_BN, edges_E2, bits_2WN, grad_sdf_BN, W, B, N, E, BLOCK: tl.constexpr):
    word = tl.program_id(1)
    edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b, differ = _crossings(bits_2WN, edges_E2, edge, word, W, N, E)
    first = word.to(tl.int64) * WORD * N
    scale = tl.load(grad) * tl.load(share)
    for k in range(shapes_of_word(word, B)):
        crossed = ((differ >> k) & 1) != 0
        at_a = tl.load(sdf_BN + first + k * N + a, mask=crossed, other=0.0)
        at_b = tl.load(sdf_BN + first + k * N + b, mask=crossed, other=0.0)
        grad_a = scale * (_sigmoid(at_a) - (at_b > 0).to(tl.float32))
        grad_b = scale * (_sigmoid(at_b) - (at_a > 0).to(tl.float32))
        tl.atomic_add(grad_sdf_BN + first + k * N + a, grad_a, mask=crossed, sem="relaxed")
        tl.atomic_add(grad_sdf_BN + first + k * N + b, grad_b, mask=crossed, sem="relaxed")


class SignCrossEntropy(Function):
    """(sdf_BN float32, edges_E2 int64) -> the mean over crossed edges, a scalar."""

    @staticmethod
    def forward(ctx, sdf_BN: Tensor, edges_E2: Tensor) -> Tensor:
        sdf_BN, edges_E2 = sdf_BN.contiguous(), edges_E2.contiguous()
        batch, num = sdf_BN.shape
        bits_2WN = sign_bits(sdf_BN, negative=True)
        words = bits_2WN.shape[1]
        blocks = cdiv(len(edges_E2), BLOCK_E)
        sums_P = torch.empty(blocks * words, device=sdf_BN.device, dtype=torch.float32)
        counts_P = torch.empty(blocks * words, device=sdf_BN.device, dtype=torch.int32)
        mean, share = torch.empty_like(sums_P[0]), torch.empty_like(sums_P[0])
        _sums_kernel[(blocks, words)](
            sdf_BN, edges_E2, bits_2WN, sums_P, counts_P, words, batch, num, len(edges_E2), BLOCK=BLOCK_E
        )
        _mean_kernel[(1,)](sums_P, counts_P, mean, share, len(sums_P), BLOCK=1024)
        ctx.save_for_backward(sdf_BN, edges_E2, bits_2WN, share)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        sdf_BN, edges_E2, bits_2WN, share = ctx.saved_tensors
        batch, num = sdf_BN.shape
        grad_sdf_BN = torch.zeros_like(sdf_BN)
        words = bits_2WN.shape[1]
        _backward_kernel[(cdiv(len(edges_E2), BLOCK_E), words)](
            grad, share, sdf_BN, edges_E2, bits_2WN, grad_sdf_BN, words, batch, num, len(edges_E2),
            BLOCK=BLOCK_E,
        )  # fmt: skip
        return grad_sdf_BN, None
