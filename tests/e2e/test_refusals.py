"""What a real server's full queue refuses is counted, though Triton does not, and so is what waits too long in it."""

from __future__ import annotations

import dataclasses
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.export.main import export
from serving.client import Get3DClient, ServiceError
from serving.codec import SampleRequest
from serving.connection import FULL_QUEUE, Attempts
from serving.server import TritonServer
from tests.serving.tiny import CONFIG, write_checkpoint

pytestmark = pytest.mark.e2e
CLIENTS = 8
REJECTED = "nv_inference_request_failure_total REJECTED"


def served(folder: Path, **serving: object) -> TritonServer:
    config = dataclasses.replace(CONFIG, serving=dataclasses.replace(CONFIG.serving, **serving))
    export(write_checkpoint(folder, config=config), folder / "repository", onnx=False)
    return TritonServer(folder / "repository")


def counted(server: TritonServer) -> dict[str, float]:
    """By metric, and by metric and reason. (The parser appends _total to Triton's counters.)"""
    text = urllib.request.urlopen(server.metrics_url, timeout=5).read().decode()
    return {
        " ".join(filter(None, [sample.name, sample.labels.get("reason")])): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ask_at_once(server: TritonServer, timeout_s: float) -> list[bool]:
    """Whether each client got its mesh."""
    answered: list[bool] = []

    def ask(seed: int) -> None:
        with Get3DClient(server.grpc_url, timeout_s=timeout_s) as client:
            try:
                client.sample(SampleRequest(seed, texture_resolution=1024))
                answered.append(True)
            except ServiceError:
                answered.append(False)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(1, CLIENTS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answered


def test_a_full_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    pause_s = Attempts.pause_s

    def counting(self: Attempts, error: Exception) -> float | None:
        if FULL_QUEUE in str(error).lower():
            refused.append(str(error))
        return pause_s(self, error)

    monkeypatch.setattr(Attempts, "pause_s", counting)
    with served(tmp_path, max_batch_size=1, queue_size=1) as server:
        assert ask_at_once(server, 60.0) == [True] * CLIENTS
        told = counted(server)
        with Get3DClient(server.grpc_url) as client:  # the second time is a repetition, the probe's never
            for seed in (1, CLIENTS + 1):
                client.sample(SampleRequest(seed, texture_resolution=1024))
            client.check_alive()
            client.check_alive()
        deadline = time.monotonic() + 5.0
        while counted(server)["get3d_repeated_rows_total"] < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert counted(server)["get3d_repeated_rows_total"] == 1
    assert len(refused) >= CLIENTS - 2, "one is worked on, one waits"
    assert told["get3d_queue_rejections_total"] == len(refused)
    assert told[REJECTED] == 0


def test_a_queue_that_keeps_requests_waiting(tmp_path: Path) -> None:
    with served(tmp_path, max_batch_size=1, queue_timeout_s=0.05) as server:
        ask_at_once(server, 20.0)
        told = counted(server)
    assert told[REJECTED] > 0
    assert told["get3d_queue_rejections_total"] == 0, "it was never full"
