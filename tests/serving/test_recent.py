"""What is remembered, and what has been forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from serving.codec import SampleRequest
from serving.recent import Recent


def test_the_last_ones_are_remembered() -> None:
    recent = Recent(2)
    assert [recent.is_new(thing) for thing in "aabab"] == [True, False, True, False, False]
    assert recent.is_new("c"), "a goes: b was asked for later"
    assert not recent.is_new("b") and recent.is_new("a")


def test_requests_are_told_apart_by_every_field() -> None:
    recent = Recent(10)
    first = SampleRequest(z_geo=((0.5, 1.0),), seed_tex=3)
    assert recent.is_new(first) and not recent.is_new(SampleRequest(z_geo=((0.5, 1.0),), seed_tex=3))
    assert recent.is_new(SampleRequest(z_geo=((0.5, 1.0),), seed_tex=3, file_format="ply"))


def test_one_of_many_threads_is_first() -> None:
    recent = Recent(10)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(recent.is_new, [7] * 200)) == 1
