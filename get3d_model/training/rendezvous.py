"""How the processes of a run meet in a key-value store, and who is named when one does not come."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from get3d_model.errors import InputError

POLL_S = 0.05


def connect(rank: int, size: int, timeout_s: float, may_hold: bool = True) -> dist.TCPStore:
    """A connection to the store at MASTER_ADDR:MASTER_PORT. Raises InputError.

    Rank 0 holds the store unless torchrun does; may_hold: False for its further connections.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    # torchrun holds the store itself, so that it outlives rank 0.
    held_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        return dist.TCPStore(
            host,
            int(port),
            size,
            is_master=may_hold and rank == 0 and not held_by_launcher,
            timeout=timedelta(seconds=timeout_s),
            # `meet` waits: the store only counts who comes.
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (dist.DistError, ValueError) as error:
        raise InputError(
            f"rank {rank} does not reach the store of the run at {host}:{port} (MASTER_ADDR, MASTER_PORT): {error}"
        ) from None


def meet(store: dist.Store, rank: int, size: int, timeout_s: float) -> str:
    """Waits until all ranks are there; returns a prefix for the keys of this attempt, the same on all ranks.

    torchrun keeps one store over its restarts, and the restart count of a node says nothing about other nodes. So
    every rank introduces itself with a name that was never used, rank 0 answers to that name, and who confirms the
    answer is there: what a killed process left in the store confirms nothing. Raises InputError naming the ranks
    that do not come.
    """
    deadline = time.monotonic() + timeout_s
    if rank == 0:
        return _invite(store, size, timeout_s, deadline)
    name = uuid.uuid4().hex
    store.set(f"get3d/hello/{rank}", name)
    answer = _wait(store, f"get3d/answer/{name}", deadline, f"rank 0 of {size}", timeout_s)
    store.set(f"{answer}/here/{rank}", "1")
    # Rank 0 knows better who is missing; it gives up first.
    _wait(store, f"{answer}/complete", deadline + 5.0, f"another rank of {size} (rank 0 names it)", timeout_s)
    return answer


def _invite(store: dist.Store, size: int, timeout_s: float, deadline: float) -> str:
    prefix = f"get3d/{uuid.uuid4().hex}"
    missing = list(range(1, size))
    while missing := [rank for rank in missing if not store.check([f"{prefix}/here/{rank}"])]:
        for rank in missing:
            if store.check([f"get3d/hello/{rank}"]):
                store.set(f"get3d/answer/{store.get(f'get3d/hello/{rank}').decode()}", prefix)
        if time.monotonic() > deadline:
            raise _absent(f"rank {', '.join(map(str, missing))} of {size}", timeout_s)
        time.sleep(POLL_S)
    store.set(f"{prefix}/complete", "1")
    return prefix


def _wait(store: dist.Store, key: str, deadline: float, who: str, timeout_s: float) -> str:
    while not store.check([key]):
        if time.monotonic() > deadline:
            raise _absent(who, timeout_s)
        time.sleep(POLL_S)
    return store.get(key).decode()


def _absent(who: str, timeout_s: float) -> InputError:
    return InputError(
        f"{who} did not start within {timeout_s:.0f} s; see the log of its node, or raise training.rank_timeout_s"
    )
