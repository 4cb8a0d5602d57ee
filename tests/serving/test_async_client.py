"""The asyncio client, against the real server; and streams of samples of both clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from get3d_model.errors import InputError
from serving.async_client import AsyncGet3DClient
from serving.client import Get3DClient, ServiceError
from serving.codec import SampleRequest, SampleResponse
from serving.server import TritonServer
from tests.components.deploy_helpers import box, write_export


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The stand-in model, which loads quickly."""
    repository = write_export(tmp_path_factory.mktemp("repository"), 1)
    with TritonServer(repository) as server:
        yield server.grpc_url


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30.0))


def requests(count: int) -> list[SampleRequest]:
    return [SampleRequest(seed) for seed in range(count)]


def test_the_same_answers_as_the_other_client(url: str) -> None:
    async def ask() -> tuple[SampleResponse, list[int], list[int], bool, float]:
        async with AsyncGet3DClient(url, timeout_s=10.0) as client:
            await client.wait_until_ready()
            one = await client.sample(SampleRequest(5))
            ordered = [r.metadata.seed async for r in client.sample_many(requests(20), 4)]
            places = [(p, r.metadata.seed) async for p, r in client.sample_as_completed(requests(20), 4)]
            assert all(place == seed for place, seed in places)
            return one, ordered, [p for p, _ in places], await client.is_ready(), await client.check_alive()

    one, ordered, places, ready, seconds = run(ask())
    assert one.mesh == box(1) and ready and 0.0 < seconds < 10.0
    assert ordered == list(range(20)) and sorted(places) == ordered
    with Get3DClient(url) as client:
        assert client.sample(SampleRequest(5)) == one
        assert [r.metadata.seed for r in client.sample_many(requests(20), 4)] == ordered
        assert sorted(p for p, _ in client.sample_as_completed(requests(20), 4)) == ordered


def test_streams_take_requests_as_there_is_room(url: str) -> None:
    """Endless requests are fine, and no more are under way than was said."""
    taken = itertools.count()
    endless = (SampleRequest(next(taken)) for _ in itertools.count())
    with Get3DClient(url, timeout_s=10.0) as client:
        stream = client.sample_many(endless, 3)
        first = [next(stream).metadata.seed for _ in range(5)]
        stream.close()
    assert first == [0, 1, 2, 3, 4] and next(taken) <= 9

    async def ask() -> int:
        seen = itertools.count()
        async with AsyncGet3DClient(url, timeout_s=10.0) as client:
            stream = client.sample_many((SampleRequest(next(seen)) for _ in itertools.count()), 3)
            async with contextlib.aclosing(stream):
                async for response in stream:
                    if response.metadata.seed == 4:
                        break
        return next(seen)

    assert run(ask()) <= 9


def test_errors_are_those_of_the_other_client(url: str) -> None:
    async def ask() -> None:
        async with AsyncGet3DClient(url, timeout_s=5.0, model_name="nothing") as client:
            assert not await client.is_ready()
            with pytest.raises(InputError, match="serves no model nothing"):
                await client.sample(SampleRequest(0))
            with pytest.raises(InputError, match="no server with a ready model nothing"):
                await client.wait_until_ready(0.1)
            with pytest.raises(InputError, match="concurrency must be at least 1"):
                await anext(client.sample_many(requests(1), 0))
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            async with AsyncGet3DClient(f"127.0.0.1:{held.getsockname()[1]}", timeout_s=0.5) as client:
                start = time.monotonic()
                with pytest.raises(ServiceError, match="not reachable"):
                    await client.sample(SampleRequest(0))
                assert 0.05 < time.monotonic() - start < 5.0, "it was tried again until the deadline"

    run(ask())


def test_a_cancelled_call_ends_at_once(url: str) -> None:
    async def ask() -> float:
        async with AsyncGet3DClient(url, timeout_s=20.0) as client:
            task = asyncio.create_task(client.sample(SampleRequest(0)))
            await asyncio.sleep(0.01)
            start = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - start

    assert run(ask()) < 1.0


def test_closing_the_client_ends_its_calls_and_does_not_cancel_the_caller(url: str) -> None:
    async def ask() -> None:
        client = AsyncGet3DClient(url, timeout_s=20.0)
        await client.wait_until_ready()
        waiting = asyncio.create_task(client.sample(SampleRequest(0)))
        streaming = asyncio.create_task(anext(client.sample_many(requests(8), 8)))
        await asyncio.sleep(0.01)
        await client.close()
        for task in (waiting, streaming):
            with pytest.raises(ServiceError, match="the client was closed") as caught:
                await task
            assert caught.value.status == "CANCELLED" and not task.cancelled()

    run(ask())


def test_example_for_trimesh(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example script, as a user runs it."""
    import runpy

    import trimesh

    script = Path(__file__).parents[2] / "docs" / "examples" / "open_in_trimesh.py"
    out = tmp_path / "scene.glb"
    monkeypatch.setattr("sys.argv", [str(script), "--url", url, "--count", "2", "--out", str(out)])
    runpy.run_path(str(script), run_name="__main__")
    scene = trimesh.load(out)
    assert len(scene.geometry) >= 1 and len(scene.graph.nodes_geometry) == 2
