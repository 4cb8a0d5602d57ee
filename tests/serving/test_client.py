"""How the client deals with servers that are busy, absent or broken."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from serving import probe
from serving.async_client import AsyncGet3DClient
from serving.client import Get3DClient, ServiceError
from serving.codec import SampleMetadata, SampleRequest, SampleResponse, encode_responses
from serving.connection import Attempts, Connection
from serving.tensors import REFUSALS


class ScriptedTransport:
    """Raises the given statuses one after the other, then answers; counts the calls."""

    def __init__(self, statuses: list[str]) -> None:
        self.statuses = statuses
        self.calls = 0

    def infer(self, *args: object, **options: object) -> ScriptedTransport:
        self.calls += 1
        if self.statuses:
            status = self.statuses.pop(0)
            raise InferenceServerException(f"reason\nof {status}", f"StatusCode.{status}")
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        metadata = SampleMetadata(1, 0.5, 64, "glb", 3, 1, False, 1, "m", "1", 0.0, "ab", 1)
        return encode_responses([SampleResponse(b"x", metadata)])[name]

    def close(self) -> None:
        pass


def scripted(statuses: list[str], timeout_s: float = 5.0) -> tuple[Get3DClient, ScriptedTransport]:
    client = Get3DClient("localhost:1", timeout_s=timeout_s)
    client.close()
    client._stub = ScriptedTransport(statuses)
    return client, client._stub


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nothing listens, held so that nothing else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_busy_server_is_asked_again() -> None:
    client, transport = scripted(["UNAVAILABLE", "UNAVAILABLE"])
    assert client.sample(SampleRequest(1)).mesh == b"x"
    assert transport.calls == 3


@pytest.mark.parametrize(
    ("text", "status", "calls"),
    [
        ("Request for unknown model: 'get3d' has no available versions", "NOT_FOUND", 3),
        ("CANCELLED", "CANCELLED", 3),
        ("Request for unknown model: 'get3d' is not found", "NOT_FOUND", 1),
        ("took longer than the limit of 60 s", "CANCELLED", 1),
    ],
)
def test_a_server_that_ends_is_asked_again(text: str, status: str, calls: int) -> None:
    """It was told to; another one will be there. What it says of a model that it never had, or a request, is final."""
    client, transport = scripted([])
    errors = [InferenceServerException(text, f"StatusCode.{status}")] * 2
    answer, made = transport.infer, []

    def infer(*arguments: object, **options: object) -> ScriptedTransport:
        made.append(options["client_timeout"])
        if errors:
            raise errors.pop()
        return answer()

    transport.infer = infer
    try:
        assert client.sample(SampleRequest(1)).mesh == b"x" and calls == 3
    except (InputError, ServiceError):
        assert calls == 1
    assert len(made) == calls


def test_it_gives_up_at_the_deadline() -> None:
    client, transport = scripted(["UNAVAILABLE"] * 1000, timeout_s=0.4)
    with pytest.raises(ServiceError, match=r"not reachable or too busy .*gave up after 0\.4 s") as caught:
        client.sample(SampleRequest(1))
    assert caught.value.status == "UNAVAILABLE"
    # Pauses grow, so that there are few attempts.
    assert 2 <= transport.calls <= 6


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        ("INVALID_ARGUMENT", InputError, "^reason of INVALID_ARGUMENT$"),
        ("NOT_FOUND", InputError, "localhost:1 serves no model get3d"),
        ("INTERNAL", ServiceError, "localhost:1: INTERNAL: reason of INTERNAL"),
        ("DEADLINE_EXCEEDED", ServiceError, "no answer within 5 s"),
    ],
)
def test_other_failures_are_not_repeated(status: str, error: type[Exception], message: str) -> None:
    client, transport = scripted([status])
    with pytest.raises(error, match=message):
        client.sample(SampleRequest(1))
    assert transport.calls == 1


def test_the_first_failure_ends_many() -> None:
    client, transport = scripted(["INTERNAL"])
    with pytest.raises(ServiceError):
        list(client.sample_many((SampleRequest(seed) for seed in range(1000)), concurrency=1))
    assert transport.calls < 1000
    with pytest.raises(InputError, match="concurrency must be at least 1, not 0"):
        next(client.sample_many([SampleRequest(1)], concurrency=0))


@pytest.mark.parametrize("client", [Get3DClient, AsyncGet3DClient])
@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_deadline(client: type, timeout_s: float) -> None:
    with pytest.raises(InputError, match="timeout_s must be above 0 and at most 86400 seconds, not"):
        client("localhost:1", timeout_s=timeout_s)


def test_an_unreachable_server(closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"127.0.0.1:{closed_port}"
    with Get3DClient(url, timeout_s=0.3) as client:
        assert not client.is_ready()
        with pytest.raises(InputError, match=f"no server answers at {url}; start one with: get3d serve"):
            client.wait_until_ready(0.1)
        start = time.monotonic()
        with pytest.raises(ServiceError, match="not reachable"):
            client.sample(SampleRequest(0))
        assert time.monotonic() - start < 5.0, "the deadline bounds the retries"
    assert probe.main(["--url", url, "--timeout", "0.3"]) == 1
    assert "not alive" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8001", "grpc://localhost:8001"])
def test_bad_urls_are_named(url: str) -> None:
    with pytest.raises(InputError, match="host:port of the gRPC endpoint"):
        Get3DClient(url)


def test_a_token_comes_as_its_file_has_it_or_is_refused() -> None:
    """Not at the first call, by gRPC, which says no more than "Invalid metadata"."""
    assert Connection("localhost:8001", token="secret\r\n") == Connection("localhost:8001", token="secret")
    for token in ("", "\n", "two\nlines", "tökén", "with space"):
        with pytest.raises(
            InputError, match="the token is empty, or has characters that no header can carry"
        ):
            Get3DClient("localhost:8001", token=token)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("This protocol is restricted, expecting header 'x'", "refuses calls without its token"),
        ("Tls handshake failed: CERTIFICATE_VERIFY_FAILED", "certificate that is trusted"),
    ],
)
def test_what_asking_again_cannot_help_is_not_asked_again(text: str, message: str) -> None:
    """Triton and gRPC call these UNAVAILABLE, too."""
    client, transport = scripted([])
    calls = []

    def infer(*arguments: object, **options: object) -> None:
        calls.append(options["client_timeout"])
        raise InferenceServerException(text, "StatusCode.UNAVAILABLE")

    transport.infer = infer
    with pytest.raises(InputError, match=message):
        client.sample(SampleRequest(1))
    assert len(calls) == 1


def test_pauses_grow_are_jittered_and_end_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    error = InferenceServerException("busy", "StatusCode.UNAVAILABLE")
    first, second = Attempts(1000.0), Attempts(1000.0)
    pauses = [(first.pause_s(error), second.pause_s(error)) for _ in range(12)]
    assert all(a != b for a, b in pauses), "two clients come back at different times"
    for number, pair in enumerate(pauses):
        most = min(0.1 * 2**number, 5.0)
        assert all(0.5 * most <= pause <= most for pause in pair)
    assert Attempts(0.0).pause_s(error) is None


def test_a_full_queue_is_alive(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Get3DClient, timeout_s: float) -> float:
        raise ServiceError("x is too busy (Exceeds maximum queue size); gave up", "UNAVAILABLE")

    monkeypatch.setattr(Get3DClient, "check_alive", full)
    assert probe.main(["--url", "127.0.0.1:9"]) == 0
    assert "busy" in capsys.readouterr().out


def test_refusals_of_a_full_queue_are_told_with_the_next_request() -> None:
    """Also those of a call that gave up; what the server knows by itself is not."""
    client, transport = scripted([])
    told: list[object] = []
    script = ["Exceeds maximum queue size"] * 2 + ["", "Exceeds maximum queue size", "down", ""]

    def infer(*arguments: object, **options: object) -> ScriptedTransport:
        told.append(options["parameters"])
        if text := script.pop(0):
            raise InferenceServerException(text, "StatusCode.UNAVAILABLE")
        return transport

    transport.infer = infer
    client.sample(SampleRequest(1))
    assert told == [None, {REFUSALS: 1}, {REFUSALS: 2}]
    with pytest.raises(ServiceError):
        client._infer([SampleRequest(1)], timeout_s=0.0)
    client.sample(SampleRequest(1))
    assert told[3:] == [None, {REFUSALS: 1}, {REFUSALS: 1}], (
        "told once, and no server that was down is a full queue"
    )
    assert client._refusals._count == 0
