"""A real server before its first model, as a cluster sees it. Its end: tests/e2e/test_drain.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from get3d_model.errors import InputError
from serving.client import Get3DClient, ServiceError
from serving.codec import MODEL_NAME
from serving.connection import Connection
from serving.probe import alive
from serving.replica import Replica, ReplicaError
from serving.server import TO_STDOUT, TritonServer


def test_a_server_that_waits_for_its_first_model_is_alive(tmp_path: Path, repository: Path) -> None:
    with (
        TritonServer(tmp_path, may_be_empty=True, log=TO_STDOUT) as server,
        Get3DClient(server.grpc_url) as client,
    ):
        assert alive(client, 10.0, may_be_empty=True) == "alive, and waiting for its first deployment"
        with pytest.raises(InputError):
            alive(client, 10.0)
        shutil.copytree(repository / MODEL_NAME, tmp_path / MODEL_NAME, dirs_exist_ok=True)
        (tmp_path / MODEL_NAME / "1" / "model.py").write_text("raise RuntimeError('broken')\n")
        connection = Connection(server.grpc_url)
        with Replica(connection, connection, 30.0) as replica, pytest.raises(ReplicaError):
            replica.load(MODEL_NAME)
        # It had something to serve, and does not.
        with pytest.raises((InputError, ServiceError)) as error:
            alive(client, 10.0, may_be_empty=True)
        assert "no available versions" in str(error.value)
