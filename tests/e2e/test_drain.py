"""A real server that is told to end answers what it has accepted, also what waits in its queue."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from components.export.main import export
from get3d_model.errors import InputError
from serving.client import Get3DClient, ServiceError
from serving.codec import SampleRequest, SampleResponse
from serving.server import TritonServer
from tests.serving.tiny import write_checkpoint

pytestmark = pytest.mark.e2e
# About two seconds of work on however many processors: pictures are drawn one after the other.
SLOW = SampleRequest(seed=1, deliver="preview", preview_resolution=1024, preview_frames=8)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    export(write_checkpoint(tmp_path_factory.mktemp("checkpoint")), folder, onnx=False)
    return folder


def sample_while_stopping(
    server: TritonServer, requests: int, rows: int = 1
) -> list[list[SampleResponse] | Exception]:
    """What requests of so many rows get that are under way or wait when the server is told to end."""
    answers: list[list[SampleResponse] | Exception] = []

    def ask() -> None:
        try:
            with Get3DClient(server.grpc_url, timeout_s=20.0) as client:
                answers.append(client.sample_rows([SLOW] * rows))
        except (InputError, ServiceError) as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(requests)]
    for thread in threads:
        thread.start()
        time.sleep(0.4)  # the first makes a batch of its own, the others wait for it
    server.stop()
    for thread in threads:
        thread.join()
    return answers


def test_accepted_requests_are_answered_before_it_ends(repository: Path) -> None:
    with TritonServer(repository, drain_timeout_s=60.0) as server:
        answers = sample_while_stopping(server, 3)
    assert [type(answer) for answer in answers] == [list] * 3, answers


def test_without_time_to_drain_they_are_not(repository: Path) -> None:
    with TritonServer(repository, drain_timeout_s=0.0) as server:
        # Longer than a server has that was told to end.
        answers = sample_while_stopping(server, 1, rows=6)
    assert isinstance(answers[0], Exception)
