"""The process group of a training run: rank and world size come from the environment (torchrun's variables)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from get3d_model.errors import InputError
from get3d_model.training.rendezvous import connect, meet
from get3d_model.training.watchdog import Watchdog

RANK_TIMEOUT_S = 600.0


class RanksDisagree(InputError):
    """Ranks of one run hold different weights."""


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    control: a gloo group for what the processes agree on; it never waits for a GPU. None in a world of one.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    watchdog: Watchdog | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def arrive(self, place: str) -> None:
        """Tells the watchdog that this rank enters a collective."""
        if self.watchdog:
            self.watchdog.arrive(place)

    def average(self, tensor: Tensor, place: str) -> None:
        """Replaces a tensor by its mean over all ranks."""
        if self.size > 1:
            self.arrive(place)
            if tensor.is_cuda:
                # NCCL divides on the way; gloo cannot.
                dist.all_reduce(tensor, op=dist.ReduceOp.AVG)
            else:
                dist.all_reduce(tensor)
                tensor /= self.size

    def start_average(self, tensor: Tensor, place: str) -> dist.Work:
        """`average` of a CUDA tensor that does not wait: neither the host nor, before the result's `wait`, the stream."""
        self.arrive(place)
        return dist.all_reduce(tensor, op=dist.ReduceOp.AVG, async_op=True)

    def broadcast(self, module: nn.Module) -> None:
        """Copies rank 0's parameters and buffers to all ranks."""
        if self.size > 1:
            self.arrive("the initial weights")
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def agree(self, value: Any, place: str) -> Any:
        """Rank 0's value, on every rank. What the others pass does not matter."""
        if self.size == 1:
            return value
        self.arrive(place)
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def gather(self, value: Any, place: str) -> list[Any]:
        """The values of all ranks, on every rank."""
        if self.size == 1:
            return [value]
        self.arrive(place)
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self, place: str) -> None:
        """Waits for all ranks; the watchdog names those that do not come."""
        if self.size > 1:
            self.arrive(place)
            dist.barrier(group=self.control)

    def check_same_weights(self, modules: Mapping[str, nn.Module]) -> None:
        """Raises RanksDisagree, naming ranks and module, unless all ranks hold the same bits."""
        mine = {name: fingerprint(module) for name, module in modules.items()}
        everyone = self.gather(mine, "the comparison of weights")
        for name in modules:
            values = [entry[name] for entry in everyone]
            usual = Counter(values).most_common(1)[0][0]
            odd = [str(rank) for rank, value in enumerate(values) if value != usual]
            if odd:
                raise RanksDisagree(
                    f"the {name} of rank {', '.join(odd)} differs from that of the other ranks; its GPU or its software "
                    "is not like theirs: run again without it, from the last checkpoint"
                )

    def close(self) -> None:
        if self.watchdog:
            self.watchdog.stop()
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


class StopVote:
    """Whether any rank wants to stop, known to all ranks at the same step: the next one, so that none waits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ballot = torch.zeros(1)
        self._work: dist.Work | None = None

    def __call__(self, flag: bool) -> bool:
        """Called once per step by every rank; true when some rank's `flag` was in the call before (alone: in this)."""
        if self._world.size == 1:
            return flag
        stop = self.close()
        self._ballot = torch.tensor([float(flag)])
        self._work = dist.all_reduce(
            self._ballot, op=dist.ReduceOp.MAX, group=self._world.control, async_op=True
        )
        return stop

    def close(self) -> bool:
        """Waits for the vote that is under way; its result."""
        if self._work is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._ballot.item())


def fingerprint(module: nn.Module) -> int:
    """A checksum over the bits of all parameters and buffers, computed where they are; one copy to the host.

    Sums of integers do not depend on their order, so equal bits give equal sums on every kind of device.
    """
    total = None
    for tensor in [*module.parameters(), *module.buffers()]:
        bits = tensor.detach().contiguous().flatten().view(torch.uint8)
        words = bits.view(torch.int32) if bits.numel() % 4 == 0 and bits.storage_offset() % 4 == 0 else bits
        # Odd weights by position, wrapping at 2^64: exchanged values are seen too.
        weight = torch.arange(1, 2 * words.numel(), 2, device=words.device)
        value = (words.long() * weight).sum()
        total = value if total is None else total * 1_000_003 + value
    return 0 if total is None else int(total)


def world_from_environment(timeout_s: float = RANK_TIMEOUT_S) -> World:
    """Joins the process group described by RANK, WORLD_SIZE, LOCAL_RANK; without them a world of one.

    One process per GPU (NCCL) where CUDA exists, else CPU processes (gloo). timeout_s: how long ranks wait for one
    that does not come. Raises InputError for variables that do not fit together and for ranks that do not start.
    """
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    except ValueError as error:
        raise InputError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers; start with torchrun ({error})"
        ) from None
    if not 0 <= rank < size:
        raise InputError(f"RANK {rank} does not fit WORLD_SIZE {size}; start with torchrun")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"LOCAL_RANK {local_rank} has no GPU ({torch.cuda.device_count()} here); start one process per GPU"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if size == 1:
        return World(rank, size, device)
    return _join(rank, size, device, timeout_s)


def _join(rank: int, size: int, device: torch.device, timeout_s: float) -> World:
    store = connect(rank, size, timeout_s)
    prefix = meet(store, rank, size, timeout_s)
    cuda = device.type == "cuda"
    # Longer than the watchdog, which can name the rank that is missing.
    group_timeout = timedelta(seconds=timeout_s + 60)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=dist.PrefixStore(f"{prefix}/group", store),
        rank=rank,
        world_size=size,
        timeout=group_timeout,
        device_id=device if cuda else None,
    )
    control = dist.new_group(backend="gloo", timeout=group_timeout)
    # A connection of its own: what waits for a key holds its connection.
    own = connect(rank, size, timeout_s, may_hold=False)
    watchdog = Watchdog(dist.PrefixStore(prefix, own), rank, size, timeout_s)
    watchdog.start()
    return World(rank, size, device, control, watchdog)
