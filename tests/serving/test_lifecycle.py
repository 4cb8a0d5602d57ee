"""A real server before its first model, as a cluster sees it, and when it is restarted under load. What it still answers
at its end: tests/e2e/test_drain.py."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from get3d_model.errors import InputError
from serving.client import Get3DClient, ServiceError
from serving.codec import MODEL_NAME
from serving.connection import Connection
from serving.probe import alive
from serving.replica import Replica, ReplicaError
from serving.server import TO_STDOUT, TritonServer
from tests.components.deploy_helpers import Load, write_export


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
            alive(client, 1.0, may_be_empty=True)
        assert "no available versions" in str(error.value)


def test_a_restart_in_order_loses_no_request(tmp_path: Path) -> None:
    """While Triton ends it calls the model unknown (NOT_FOUND), for seconds; clients have to come back all the same."""
    repository = write_export(tmp_path, 1)
    with TritonServer(repository) as server:
        load = Load(server.grpc_url, 4).__enter__()
        server.stop()
    before = sum(load.answers.values())
    with TritonServer(repository, server.ports):
        deadline = time.monotonic() + 20.0
        while sum(load.answers.values()) < before + 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        load.__exit__()
    assert load.failures == [] and sum(load.answers.values()) >= before + 8
