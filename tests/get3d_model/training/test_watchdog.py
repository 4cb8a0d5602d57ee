"""The watchdog on ranks whose progress is known; in real processes it is in test_distributed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from get3d_model.training.watchdog import Watchdog

TIMEOUT_S = 0.3


class Ranks:
    """Watchdogs of some ranks over one store; what they say when they end their process."""

    def __init__(self, ranks: int, size: int) -> None:
        store = dist.HashStore()
        self.said: dict[int, str] = {}
        self.spoken = threading.Event()
        self.dogs = [Watchdog(store, rank, size, TIMEOUT_S, self._hear(rank)) for rank in range(ranks)]
        for dog in self.dogs:
            dog.start()

    def _hear(self, rank: int):
        def end(message: str) -> None:
            self.said[rank] = message
            self.spoken.set()

        return end


@pytest.fixture
def start() -> Iterator[list[Ranks]]:
    started: list[Ranks] = []
    yield started
    for ranks in started:
        for dog in ranks.dogs:
            dog.stop()


def test_the_rank_that_does_not_come_is_named(start: list[Ranks]) -> None:
    ranks = Ranks(3, 3)
    start.append(ranks)
    for dog in ranks.dogs:
        dog.arrive("the gradients")
    for rank in (0, 2):
        ranks.dogs[rank].arrive("the log record")
    assert ranks.spoken.wait(5.0)
    time.sleep(0.3)
    for rank in (0, 2):
        assert f"rank {rank}: no progress" in ranks.said[rank]
        assert "the log record still waits for rank 1 (last at: the gradients)" in ranks.said[rank]
        assert "training.rank_timeout_s" in ranks.said[rank]


def test_a_rank_without_a_sign_of_life_is_named(start: list[Ranks]) -> None:
    start.append(ranks := Ranks(1, 2))
    ranks.dogs[0].arrive("the checkpoint")
    assert ranks.spoken.wait(5.0)
    assert "the checkpoint still waits for rank 1 (last at: no sign of life)" in ranks.said[0]


def test_when_nobody_is_behind_nobody_is_blamed(start: list[Ranks]) -> None:
    start.append(ranks := Ranks(2, 2))
    for dog in ranks.dogs:
        dog.arrive("the gradients")
    assert ranks.spoken.wait(5.0)
    assert "all 2 ranks came to the gradients and none got on" in next(iter(ranks.said.values()))


def test_progress_keeps_it_quiet_and_so_does_the_end(start: list[Ranks]) -> None:
    start.append(ranks := Ranks(1, 2))
    for _ in range(12):
        ranks.dogs[0].arrive("the gradients")
        time.sleep(TIMEOUT_S / 4)
    assert not ranks.said
    ranks.dogs[0].stop()
    time.sleep(2 * TIMEOUT_S)
    assert not ranks.said


def test_who_waits_for_nobody_is_left_alone(start: list[Ranks]) -> None:
    """Before the first collective: large data sets take long to open."""
    start.append(ranks := Ranks(2, 2))
    time.sleep(2 * TIMEOUT_S)
    assert not ranks.said


def test_a_lost_store_is_said_too() -> None:
    class Lost:
        def set(self, key: str, value: str) -> None:
            raise RuntimeError("connection refused")

    said: list[str] = []
    dog = Watchdog(Lost(), 1, 2, TIMEOUT_S, said.append)
    dog.start()
    dog.arrive("the gradients")
    time.sleep(3 * TIMEOUT_S)
    dog.stop()
    assert len(said) == 1 and said[0].startswith("rank 1 waits") and "connection refused" in said[0]
