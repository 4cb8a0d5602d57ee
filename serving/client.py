"""The gRPC client of the served model: no torch, safe to use from several threads."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from get3d_model.limits import MIN_TEXTURE_RESOLUTION
from serving.codec import (
    INPUTS,
    MODEL_NAME,
    SampleRequest,
    SampleResponse,
    decode_responses,
    encode_requests,
    requested_outputs,
)

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
READY_POLL_S = 0.2
CONNECT_TIMEOUT_S = 5.0


class ServiceError(RuntimeError):
    """The service failed to answer a good request; `status` is the gRPC status name."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class Get3DClient:
    """Samples meshes from a server at `url` ("host:port" of its gRPC endpoint).

    timeout_s: the deadline of one sample, retries included; when it passes, the server drops the request.
    A server that is busy or restarting (UNAVAILABLE) is asked again with growing pauses until then.
    """

    def __init__(
        self, url: str, model_name: str = MODEL_NAME, timeout_s: float = 60.0, model_version: str = ""
    ) -> None:
        if "://" in url or ":" not in url:
            raise InputError(
                f"server url {url!r} must be host:port of the gRPC endpoint, for instance localhost:8001"
            )
        self.url = url
        self.model_name = model_name
        self.model_version = model_version
        self.timeout_s = timeout_s
        self._stub = triton.InferenceServerClient(url)

    def __enter__(self) -> Get3DClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stub.close()

    def is_ready(self) -> bool:
        """Whether the server says that the model is loaded; `check_alive` finds out whether it works."""
        try:
            return self._stub.is_model_ready(
                self.model_name, self.model_version, client_timeout=CONNECT_TIMEOUT_S
            )
        except InferenceServerException:
            return False

    def wait_until_ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Raises InputError when the server does not answer in time or has no such model."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise InputError(self._not_ready_reason())
            time.sleep(READY_POLL_S)

    def check_alive(self, timeout_s: float = 10.0) -> float:
        """Samples one small mesh, and returns the seconds it took.

        For liveness probes: a model whose process died still reports ready. Raises ServiceError.
        """
        start = time.monotonic()
        self._infer([SampleRequest(0, texture_resolution=MIN_TEXTURE_RESOLUTION)], timeout_s)
        return time.monotonic() - start

    def sample(self, request: SampleRequest) -> SampleResponse:
        """One mesh. Raises InputError for what the server refuses, ServiceError for its failures."""
        return self.sample_rows([request])[0]

    def sample_rows(self, requests: list[SampleRequest]) -> list[SampleResponse]:
        """Several meshes in one call (at most the served batch size), all or none. Raises as `sample`."""
        return self._infer(requests, self.timeout_s)

    def sample_many(
        self, requests: Iterable[SampleRequest], concurrency: int = 4
    ) -> Iterator[SampleResponse]:
        """One mesh per request, in order, with up to `concurrency` calls under way.

        The server batches calls that arrive together. The first failure is raised at its place and ends it.
        """
        if concurrency < 1:
            raise InputError(f"concurrency must be at least 1, not {concurrency}")
        pending: deque[Future[SampleResponse]] = deque()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="get3d-client") as pool:
            try:
                for request in requests:
                    pending.append(pool.submit(self.sample, request))
                    if len(pending) >= concurrency:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _infer(self, requests: list[SampleRequest], timeout_s: float) -> list[SampleResponse]:
        inputs, outputs = self._inputs(requests), requested_outputs(requests)
        deadline = time.monotonic() + timeout_s
        backoff_s = FIRST_BACKOFF_S
        while True:
            remaining_s = max(deadline - time.monotonic(), 0.001)
            try:
                result = self._stub.infer(
                    self.model_name,
                    inputs,
                    self.model_version,
                    outputs=[triton.InferRequestedOutput(name) for name in outputs],
                    client_timeout=remaining_s,
                )
            except InferenceServerException as error:
                status = _status(error)
                # Jitter, so that clients that were refused together do not come back together.
                pause_s = backoff_s * random.uniform(0.5, 1.0)
                if status != "UNAVAILABLE" or time.monotonic() + pause_s >= deadline:
                    raise self._translated(error, status, timeout_s) from None
                time.sleep(pause_s)
                backoff_s = min(2.0 * backoff_s, MAX_BACKOFF_S)
            else:
                return decode_responses({name: result.as_numpy(name) for name in outputs})

    def _inputs(self, requests: list[SampleRequest]) -> list[triton.InferInput]:
        arrays = encode_requests(requests)
        inputs = []
        for spec in INPUTS:
            if spec.name in arrays:
                tensor = triton.InferInput(spec.name, list(arrays[spec.name].shape), spec.wire_type)
                tensor.set_data_from_numpy(arrays[spec.name])
                inputs.append(tensor)
        return inputs

    def _translated(self, error: InferenceServerException, status: str, timeout_s: float) -> Exception:
        text = " ".join((error.message() or "no reason given").split())
        if status == "INVALID_ARGUMENT":
            return InputError(text)
        if status == "NOT_FOUND":
            return InputError(f"{self.url} serves no {self._model_text()}: {text}")
        if status == "DEADLINE_EXCEEDED":
            return ServiceError(f"{self.url} gave no answer within {timeout_s:g} s", status)
        if status == "UNAVAILABLE":
            return ServiceError(
                f"{self.url} is not reachable or too busy ({text}); gave up after {timeout_s:g} s", status
            )
        return ServiceError(f"{self.url}: {status}: {text}", status)

    def _not_ready_reason(self) -> str:
        try:
            live = self._stub.is_server_live(client_timeout=CONNECT_TIMEOUT_S)
        except InferenceServerException:
            live = False
        if live:
            return f"{self.url} is a Triton server, but serves no ready {self._model_text()}; check its log"
        return f"no server answers at {self.url}; start one with: get3d serve --repository DIR"

    def _model_text(self) -> str:
        return f"model {self.model_name}" + (f" version {self.model_version}" if self.model_version else "")


def _status(error: InferenceServerException) -> str:
    """The gRPC status name. The client library reports its own deadline as a status, too."""
    return (error.status() or "UNKNOWN").removeprefix("StatusCode.")
