"""An endless, shuffled, resumable order of samples.

Shape legend: B batch, N samples
"""

from __future__ import annotations

import numpy as np


class InfiniteSampler:
    """Indices of training batches as a pure function of (seed, rank, world_size, step).

    The permutations of all epochs, one after the other, form one stream of indices. Step `s` of a run with
    `world_size` ranks of `batch_size` takes the next `world_size * batch_size` of them, rank r every
    `world_size`-th starting at r. So within an epoch every sample is drawn exactly once over all ranks, ranks
    never overlap, a run resumes from nothing but its step counter, and one that resumes with another number
    of ranks and the same total batch sees the same samples.
    """

    def __init__(
        self,
        dataset_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights_N: np.ndarray | None = None,
    ) -> None:
        """weights_N: how often each sample is to be drawn, of any scale; None: once in every epoch.

        With weights an epoch still has as many draws as there are samples. One that is due c times in it is drawn
        floor(c) or ceil(c) times, on average over the epochs c times.
        """
        if dataset_size < 1:
            raise ValueError(f"dataset_size must be at least 1, got {dataset_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        self.dataset_size = dataset_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._weights_N = None
        if weights_N is not None:
            weights_N = np.asarray(weights_N, np.float64)
            if weights_N.shape != (dataset_size,) or not (np.isfinite(weights_N) & (weights_N >= 0)).all():
                raise ValueError(f"expected {dataset_size} finite weights from 0 on, got {weights_N.shape}")
            if not weights_N.sum() > 0:
                raise ValueError("the weights must not all be 0")
            self._weights_N = weights_N * (dataset_size / weights_N.sum())
        self._permutations: dict[int, np.ndarray] = {}

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """The B int64 indices of this rank at `step` (counted from 0)."""
        if step < 0 or batch_size < 1:
            raise ValueError(f"expected step >= 0 and batch_size >= 1, got {step} and {batch_size}")
        position_B = (step * batch_size + np.arange(batch_size, dtype=np.int64)) * self.world_size + self.rank
        epoch_B, offset_B = np.divmod(position_B, self.dataset_size)
        index_B = np.empty(batch_size, np.int64)
        for epoch in np.unique(epoch_B):
            chosen_B = epoch_B == epoch
            index_B[chosen_B] = self._permutation(int(epoch))[offset_B[chosen_B]]
        return index_B

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            # Sorted raw bits and not Generator.permutation: numpy promises the same bit stream for ever,
            # but not the same algorithm on top of it, and a resumed run may have another numpy.
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
            order_N = np.argsort(bits.random_raw(self.dataset_size), kind="stable").astype(np.int64)
            if self._weights_N is not None:
                order_N = self._weighted(order_N, bits)
            # A batch may straddle two epochs; anything older is never asked for again in order.
            self._permutations = {
                kept: value for kept, value in self._permutations.items() if abs(kept - epoch) == 1
            }
            self._permutations[epoch] = order_N
        return self._permutations[epoch]

    def _weighted(self, order_N: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
        """Systematic sampling along a random order (Madow 1949), shuffled again so that repetitions lie apart."""
        total_N = np.cumsum(self._weights_N[order_N])
        start = (int(bits.random_raw()) >> 11) / 2**53
        at_N = np.searchsorted(total_N, np.arange(self.dataset_size) + start, side="right")
        chosen_N = order_N[np.minimum(at_N, self.dataset_size - 1)]
        return chosen_N[np.argsort(bits.random_raw(self.dataset_size), kind="stable")]
