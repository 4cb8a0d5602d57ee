"""The asyncio twin of `serving.client`: the same methods and errors, to be awaited. No torch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from serving.client import (
    ALIVE_REQUEST,
    CONNECT_TIMEOUT_S,
    READY_POLL_S,
    check_concurrency,
    model_text,
    request_inputs,
)
from serving.codec import MODEL_NAME, SampleRequest, SampleResponse, decode_responses, requested_outputs
from serving.connection import (
    Attempts,
    Connection,
    Refusals,
    ServiceError,
    Tls,
    check_timeout,
    translated,
)


class AsyncGet3DClient:
    """Samples meshes from a server at `url`, as `Get3DClient` does, from a coroutine.

    A call that is cancelled is cancelled at the server, which then stops at its next stage.
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
        # Made on first use, because it belongs to the loop that runs then.
        self._opened: Any = None

    async def __aenter__(self) -> AsyncGet3DClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    async def is_ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
        """Whether the server says that the model is loaded; `check_alive` finds out whether it works."""
        try:
            return await self._stub.is_model_ready(
                self.model_name, self.model_version, headers=self._headers, client_timeout=timeout_s
            )
        except InferenceServerException:
            return False

    async def wait_until_ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Raises InputError when the server does not answer in time or has no such model."""
        deadline = time.monotonic() + timeout_s
        while not await self.is_ready():
            if time.monotonic() > deadline:
                served = model_text(self.model_name, self.model_version)
                raise InputError(
                    f"no server with a ready {served} answers at {self.url}; check it and its log"
                )
            await asyncio.sleep(READY_POLL_S)

    async def check_alive(self, timeout_s: float = 10.0) -> float:
        """Samples one small mesh, and returns the seconds it took. Raises ServiceError."""
        start = time.monotonic()
        await self._infer([ALIVE_REQUEST], timeout_s)
        return time.monotonic() - start

    async def sample(self, request: SampleRequest) -> SampleResponse:
        """One mesh. Raises InputError for what the server refuses, ServiceError for its failures."""
        return (await self.sample_rows([request]))[0]

    async def sample_rows(self, requests: list[SampleRequest]) -> list[SampleResponse]:
        """Several meshes in one call (at most the served batch size), all or none. Raises as `sample`."""
        return await self._infer(requests, self.timeout_s)

    async def sample_many(
        self, requests: Iterable[SampleRequest], concurrency: int = 4
    ) -> AsyncIterator[SampleResponse]:
        """One mesh per request, in order, with up to `concurrency` calls under way.

        The first failure is raised at its place and ends it. Close the iterator (`contextlib.aclosing`) when
        leaving early; calls under way are cancelled then.
        """
        check_concurrency(concurrency)
        pending: deque[asyncio.Task[SampleResponse]] = deque()
        try:
            for request in requests:
                if len(pending) >= concurrency:
                    yield await pending[0]
                    pending.popleft()
                pending.append(asyncio.create_task(self.sample(request)))
            while pending:
                yield await pending[0]
                pending.popleft()
        finally:
            await _cancel(pending)

    async def sample_as_completed(
        self, requests: Iterable[SampleRequest], concurrency: int = 4
    ) -> AsyncIterator[tuple[int, SampleResponse]]:
        """As `sample_many`, but each as soon as it is there, with the request's place (from 0)."""
        check_concurrency(concurrency)
        places: dict[asyncio.Task[SampleResponse], int] = {}
        remaining = iter(enumerate(requests))
        try:
            while True:
                while len(places) < concurrency and (following := next(remaining, None)) is not None:
                    places[asyncio.create_task(self.sample(following[1]))] = following[0]
                if not places:
                    return
                done, _ = await asyncio.wait(places, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=places.__getitem__):
                    yield places.pop(task), task.result()
        finally:
            await _cancel(places)

    @property
    def _stub(self) -> Any:
        if self._opened is None:
            self._opened = triton_aio.InferenceServerClient(**self.connection.client_options())
        return self._opened

    async def _infer(self, requests: list[SampleRequest], timeout_s: float) -> list[SampleResponse]:
        inputs, names = request_inputs(requests), requested_outputs(requests)
        outputs = [triton.InferRequestedOutput(name) for name in names]
        attempts = Attempts(timeout_s)
        while True:
            try:
                with self._refusals.told() as parameters:
                    result = await self._stub.infer(
                        self.model_name,
                        inputs,
                        self.model_version,
                        outputs=outputs,
                        client_timeout=attempts.remaining_s,
                        headers=self._headers,
                        parameters=parameters,
                    )
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():
                    raise
                # Nobody cancelled us: gRPC cancels its calls when their client is closed. The caller's task must not
                # look cancelled by that.
                raise ServiceError(
                    f"{self.url}: the client was closed while it waited for an answer", "CANCELLED"
                ) from None
            except InferenceServerException as error:
                pause_s = attempts.pause_s(error)
                if pause_s is None:
                    served = model_text(self.model_name, self.model_version)
                    raise translated(error, self.url, served, timeout_s) from None
                await asyncio.sleep(pause_s)
            else:
                return decode_responses({name: result.as_numpy(name) for name in names})


async def _cancel(tasks: Iterable[asyncio.Task[SampleResponse]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
