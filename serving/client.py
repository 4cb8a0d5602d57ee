"""The gRPC client of the served model: no torch, safe to use from several threads. Its asyncio twin: async_client."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

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
from serving.connection import (
    Connection,
    Refusals,
    ServiceError,
    Tls,
    call_with_retries,
    check_timeout,
    translated,
)

__all__ = ["Connection", "Get3DClient", "ServiceError", "Tls"]

READY_POLL_S = 0.2
CONNECT_TIMEOUT_S = 5.0
ALIVE_REQUEST = SampleRequest(0, texture_resolution=MIN_TEXTURE_RESOLUTION)
"""What a probe samples."""


class Get3DClient:
    """Samples meshes from a server at `url` ("host:port" of its gRPC endpoint, or a whole Connection).

    timeout_s: the deadline of one sample, retries included; when it passes, the server drops the request.
    A server that is busy, restarting or draining is asked again with growing pauses until then; nothing else is.
    token, tls: what a protected server asks for (docs/serving.md).
    """

    def __init__(
        self,
        url: str | Connection,
        model_name: str = MODEL_NAME,
        timeout_s: float = 60.0,
        model_version: str = "",
        *,
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        check_timeout("timeout_s", timeout_s)
        self.connection = url if isinstance(url, Connection) else Connection(url, tls, token)
        self.url = self.connection.url
        self.model_name = model_name
        self.model_version = model_version
        self.timeout_s = timeout_s
        self._headers = self.connection.headers
        self._refusals = Refusals()
        self._stub = triton.InferenceServerClient(**self.connection.client_options())

    def __enter__(self) -> Get3DClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stub.close()

    def is_ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
        """Whether the server says that the model is loaded; `check_alive` finds out whether it works."""
        try:
            return self._stub.is_model_ready(
                self.model_name, self.model_version, headers=self._headers, client_timeout=timeout_s
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
        self._infer([ALIVE_REQUEST], timeout_s)
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

        The server batches calls that arrive together. The requests are taken one by one, as there is room, so they may
        be endless. The first failure is raised at its place and ends it; leaving the loop ends it, too.
        """
        with _Window(self, concurrency) as window:
            pending: deque[Future[SampleResponse]] = deque()
            for request in requests:
                if len(pending) >= concurrency:
                    yield pending.popleft().result()
                pending.append(window.start(request))
            while pending:
                yield pending.popleft().result()

    def sample_as_completed(
        self, requests: Iterable[SampleRequest], concurrency: int = 4
    ) -> Iterator[tuple[int, SampleResponse]]:
        """As `sample_many`, but each as soon as it is there, with the request's place (from 0)."""
        with _Window(self, concurrency) as window:
            places: dict[Future[SampleResponse], int] = {}
            for place, request in enumerate(requests):
                if len(places) >= concurrency:
                    yield from _finished(places)
                places[window.start(request)] = place
            while places:
                yield from _finished(places)

    def _infer(self, requests: list[SampleRequest], timeout_s: float) -> list[SampleResponse]:
        inputs, names = request_inputs(requests), requested_outputs(requests)
        outputs = [triton.InferRequestedOutput(name) for name in names]

        def call(remaining_s: float) -> Any:
            with self._refusals.told() as parameters:
                return self._stub.infer(
                    self.model_name,
                    inputs,
                    self.model_version,
                    outputs=outputs,
                    client_timeout=remaining_s,
                    headers=self._headers,
                    parameters=parameters,
                )

        try:
            result = call_with_retries(call, timeout_s)
        except InferenceServerException as error:
            served = model_text(self.model_name, self.model_version)
            raise translated(error, self.url, served, timeout_s) from None
        return decode_responses({name: result.as_numpy(name) for name in names})

    def _not_ready_reason(self) -> str:
        try:
            live = self._stub.is_server_live(headers=self._headers, client_timeout=CONNECT_TIMEOUT_S)
        except InferenceServerException as error:
            reason = translated(error, self.url, MODEL_NAME, CONNECT_TIMEOUT_S)
            if isinstance(reason, InputError):
                return str(reason)
            live = False
        served = model_text(self.model_name, self.model_version)
        if live:
            return f"{self.url} is a Triton server, but serves no ready {served}; check its log"
        tls = "" if self.connection.tls else ", or give --tls-ca if it is encrypted"
        return f"no server answers at {self.url}; start one with: get3d serve --repository DIR{tls}"


class _Window:
    """Calls under way in threads. On leaving, those that wait are dropped, and those that run are waited for."""

    def __init__(self, client: Get3DClient, concurrency: int) -> None:
        check_concurrency(concurrency)
        self._client = client
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="get3d-client")

    def __enter__(self) -> _Window:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start(self, request: SampleRequest) -> Future[SampleResponse]:
        return self._pool.submit(self._client.sample, request)


def _finished(places: dict[Future[SampleResponse], int]) -> Iterator[tuple[int, SampleResponse]]:
    """Takes what is finished out of `places`, after waiting for at least one."""
    done, _ = wait(places, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=places.__getitem__):
        yield places.pop(future), future.result()


def check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise InputError(f"concurrency must be at least 1, not {concurrency}")


def request_inputs(requests: list[SampleRequest]) -> list[triton.InferInput]:
    """The tensors of one call. Raises InputError."""
    arrays = encode_requests(requests)
    inputs = []
    for spec in INPUTS:
        if spec.name in arrays:
            tensor = triton.InferInput(spec.name, list(arrays[spec.name].shape), spec.wire_type)
            tensor.set_data_from_numpy(arrays[spec.name])
            inputs.append(tensor)
    return inputs


def model_text(name: str, version: str) -> str:
    return f"model {name}" + (f" version {version}" if version else "")
