"""The engine without Triton: batches, workers, what stops a request."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.mesh_io import mesh_bytes
from get3d_model.stable_sampler import StableSampler
from serving.codec import SampleRequest, SampleResponse
from serving.engine import Engine
from serving.jobs import Job, Share, Stopped

DEFAULTS = {"truncation_psi": 0.7, "texture_resolution": 64, "file_format": "glb"}
ROWS = [
    SampleRequest(1),
    SampleRequest(2, 0.5, 128, "ply"),
    SampleRequest(3, color="vertex", deliver="mesh,latent"),
    SampleRequest((4, 5), weights=(0.5, 0.5), target_triangles=100),
    SampleRequest(6, deliver="preview", preview_resolution=32),
]


@pytest.fixture(scope="module")
def sampler(checkpoint: Path) -> StableSampler:
    return StableSampler.load(checkpoint)


@pytest.fixture
def engine(sampler: StableSampler) -> Iterator[Engine]:
    made = Engine(sampler, DEFAULTS, "1", workers=2)
    yield made
    made.close()


def content(answers: list[SampleResponse] | Exception) -> list[tuple[bytes, tuple[bytes, ...]]]:
    assert not isinstance(answers, Exception), answers
    return [(answer.mesh, answer.previews) for answer in answers]


@pytest.mark.parametrize("row_by_row", [True, False], ids=["on workers", "as on a GPU"])
@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_depend_on_the_request_alone(
    sampler: StableSampler, engine: Engine, workers: int, row_by_row: bool
) -> None:
    alone = [content(engine.run([Job([row])])[0])[0] for row in ROWS]
    other = Engine(sampler, DEFAULTS, "1", workers, row_by_row=row_by_row)
    together = other.run([Job(ROWS[:2]), Job(ROWS[2:]), Job([ROWS[0]])])
    assert [pair for answers in together for pair in content(answers)] == [*alone, alone[0]]
    assert {answer.metadata.batch_size for answers in together for answer in answers} == {6}
    other.close()


@pytest.mark.parametrize("row_by_row", [True, False], ids=["on workers", "as on a GPU"])
def test_latents_alone_need_no_shape(
    sampler: StableSampler, row_by_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(sampler, DEFAULTS, "1", 2, row_by_row=row_by_row)
    ((with_mesh,),) = engine.run([Job([SampleRequest(3, deliver="mesh,latent")])])
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "networks", lambda styles: 1 // 0)
        ((alone,), late) = engine.run(
            [
                Job([SampleRequest(3, deliver="latent")]),
                Job([SampleRequest(3, deliver="latent")], time_limit_s=0.0),
            ]
        )
    for name in ("latent_geo", "latent_tex"):
        assert getattr(alone, name).tolist() == getattr(with_mesh, name).tolist()
    assert alone.mesh == b"" and alone.metadata.empty is None and not with_mesh.metadata.empty
    assert isinstance(late, Stopped) and late.reason == "timeout"
    engine.close()


def test_it_is_what_the_library_samples(engine: Engine, checkpoint: Path) -> None:
    (mesh,) = Sampler.load(checkpoint).generate([1], 0.7, 64)
    assert content(engine.run([Job([ROWS[0]])])[0])[0][0] == mesh_bytes(mesh, "glb")


@pytest.mark.parametrize("row_by_row", [True, False])
def test_a_bad_request_fails_alone(sampler: StableSampler, row_by_row: bool) -> None:
    engine = Engine(sampler, DEFAULTS, "1", 2, row_by_row=row_by_row)
    bad = SampleRequest(1, z_tex=[1.0])
    good, failed, mixed = engine.run([Job([ROWS[0]]), Job([bad]), Job([ROWS[0], bad])])
    assert len(content(good)) == 1
    for error in (failed, mixed):
        assert isinstance(error, InputError) and "z_tex has 1 values per latent" in str(error)
    engine.close()


@pytest.mark.parametrize("row_by_row", [True, False])
def test_the_cancelled_stop_at_the_next_stage(sampler: StableSampler, row_by_row: bool) -> None:
    stages: list[str] = []
    gone = threading.Event()

    def observe(stage: str, seconds: float) -> None:
        stages.append(stage)
        if stage == "extraction":
            gone.set()

    engine = Engine(sampler, DEFAULTS, "1", 1, observe, row_by_row)
    cancelled, good = engine.run([Job([ROWS[0]], gone.is_set), Job([ROWS[0]])])
    assert isinstance(cancelled, Stopped) and cancelled.reason == "cancelled"
    assert "before the stage atlas" in str(cancelled)
    assert len(content(good)) == 1 and stages.count("atlas") == 1
    engine.close()


def test_time_limits_are_a_request_s_own(engine: Engine) -> None:
    late, good = engine.run([Job([ROWS[0]], time_limit_s=0.0), Job([ROWS[0]], time_limit_s=math.inf)])
    assert isinstance(late, Stopped) and late.reason == "timeout" and "the limit of 0 s" in str(late)
    assert len(content(good)) == 1


def test_networks_that_fail_stop_the_batch_but_not_the_engine(
    sampler: StableSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(sampler, DEFAULTS, "1", 2, row_by_row=False)
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "networks", lambda styles: 1 // 0)
        outcomes = engine.run([Job([ROWS[0]]), Job([SampleRequest(1, z_tex=[1.0])])])
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, InputError]
    assert len(content(engine.run([Job([ROWS[0]])])[0])) == 1
    engine.close()


def test_answers_that_are_too_large(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.MAX_RESPONSE_BYTES", 1000)
    (outcome,) = engine.run([Job([ROWS[0]])])
    assert isinstance(outcome, InputError) and "lower target_triangles or texture_resolution" in str(outcome)


def test_no_previews_without_a_rasteriser(checkpoint: Path) -> None:
    sampler = StableSampler.load(checkpoint)
    sampler.rasterizer = None
    engine = Engine(sampler, DEFAULTS, "1", 1)
    engine.warm_up()
    preview, mesh = engine.run([Job([ROWS[4]]), Job([ROWS[0]])])
    assert isinstance(preview, InputError) and "no rasteriser" in str(preview)
    assert len(content(mesh)) == 1
    engine.close()


def test_workers_are_shared_by_the_rows_that_are_left() -> None:
    share, threads = Share(workers=8), []
    assert share.threads() == 8
    share.begin(3)
    for _ in range(3):
        threads.append(share.threads())
        share.done()
    assert threads == [2, 4, 8]
    share.begin(20)
    assert share.threads() == 1


def test_the_last_row_gets_all_workers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row to come waits until the other one is done, and finds its worker idle."""
    networks, colors, done = StableSampler.networks, StableSampler.point_colors, Share.done
    first, other_is_done, threads = threading.Lock(), threading.Event(), []

    def waiting(*arguments: Any) -> Any:
        if first.acquire(blocking=False):
            assert other_is_done.wait(60)
        return networks(*arguments)

    def seen(*arguments: Any) -> Any:
        threads.append(arguments[-1])
        return colors(*arguments)

    def told(share: Share) -> None:
        done(share)
        other_is_done.set()

    monkeypatch.setattr(StableSampler, "networks", waiting)
    monkeypatch.setattr(StableSampler, "point_colors", seen)
    monkeypatch.setattr(Share, "done", told)
    for answers in engine.run([Job([SampleRequest(seed)]) for seed in range(2)]):
        content(answers)
    assert threads == [1, 2]


def test_others_are_welcome_before_the_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers come one by one; `begin` returns when both workers still have a row to do."""
    networks, allowed = StableSampler.networks, threading.Semaphore(0)

    def waiting(*arguments: Any) -> Any:
        assert allowed.acquire(timeout=60)
        return networks(*arguments)

    monkeypatch.setattr(StableSampler, "networks", waiting)
    answered: queue.SimpleQueue[int] = queue.SimpleQueue()
    jobs = [Job([SampleRequest(0), SampleRequest(1)]), Job([SampleRequest(2)]), Job([SampleRequest(3)])]
    begun = threading.Thread(target=engine.begin, args=(jobs, lambda index, outcome: answered.put(index)))
    begun.start()
    allowed.release()
    begun.join(0.2)
    assert begun.is_alive(), "three rows are left for two workers"
    allowed.release()
    begun.join(60)
    assert not begun.is_alive()
    first = answered.get(timeout=60)
    assert answered.empty(), "no other request has all of its rows"
    engine.begin([], lambda index, outcome: None)
    allowed.release(2)
    assert {first, answered.get(timeout=60), answered.get(timeout=60)} == {0, 1, 2}
    assert answered.empty()
