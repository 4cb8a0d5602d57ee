"""The process group of a training run: rank and world size come from the environment (torchrun's variables)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from get3d_model.errors import InputError


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, module: nn.Module) -> None:
        """Copies rank 0's parameters and buffers to all ranks."""
        if self.size > 1:
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def any(self, flag: bool) -> bool:
        """True on every rank when `flag` is true on one."""
        if self.size == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def world_from_environment() -> World:
    """Joins the process group described by RANK, WORLD_SIZE, LOCAL_RANK; without them a world of one.

    One process per GPU (NCCL) where CUDA exists, else CPU processes (gloo). Raises InputError for
    variables that do not fit together.
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
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank, size, device)
