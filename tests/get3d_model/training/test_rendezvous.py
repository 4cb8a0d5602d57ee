"""Meeting of ranks, as threads over one store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from get3d_model.errors import InputError
from get3d_model.training.rendezvous import meet


def meeting(store: dist.Store, ranks: tuple[int, ...], size: int, timeout_s: float = 10.0) -> list[str]:
    with ThreadPoolExecutor(len(ranks)) as pool:
        return [f.result() for f in [pool.submit(meet, store, rank, size, timeout_s) for rank in ranks]]


def test_every_attempt_has_keys_of_its_own() -> None:
    """One store, three attempts, as under torchrun --max-restarts; what the earlier ones left confuses nobody."""
    store = dist.HashStore()
    attempts = [meeting(store, (0, 1, 2), 3) for _ in range(3)]
    assert [len(set(prefixes)) for prefixes in attempts] == [1, 1, 1]
    assert len({prefixes[0] for prefixes in attempts}) == 3


def test_who_is_missing_is_named_also_when_it_was_there_before() -> None:
    store = dist.HashStore()
    meeting(store, (0, 1, 2, 3), 4)
    with pytest.raises(InputError, match=r"^rank 1, 3 of 4 did not start within 1 s; see the log"):
        meeting(store, (0, 2), 4, timeout_s=1.0)
    with pytest.raises(InputError, match=r"^rank 0 of 4 did not start"):
        meeting(store, (2,), 4, timeout_s=0.5)
