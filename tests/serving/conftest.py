"""One real Triton server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.export.main import export
from serving.client import Get3DClient
from serving.server import TritonServer
from tests.serving.tiny import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    export(checkpoint, folder, onnx=False)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[Get3DClient]:
    with Get3DClient(server.grpc_url, timeout_s=20.0) as connected:
        yield connected
