"""One running server as a roll-out sees it: loading and unloading versions, sampling from a certain one."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from serving.client import Get3DClient, ServiceError
from serving.codec import SampleRequest, SampleResponse
from serving.connection import Connection, call_with_retries, status_of, translated

POLL_S = 0.1
MAX_REASON = 300
UNLOAD_TIMEOUT_S = 5.0


class ReplicaError(Exception):
    """A replica did not do what it was asked for; the message is one line and names it."""


class Replica:
    """A server at `connection`. control: how to reach its control calls, which may ask for another token.

    Calls are tried again while the server is busy or away, until `timeout_s`. Methods raise ReplicaError.
    """

    def __init__(self, connection: Connection, control: Connection, timeout_s: float) -> None:
        self.connection = connection
        self.url = connection.url
        self.timeout_s = timeout_s
        self._headers = control.headers
        self._stub = triton.InferenceServerClient(**control.client_options())

    def __enter__(self) -> Replica:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stub.close()

    def load(self, model: str) -> None:
        """Loads the model as its configuration says; returns when its versions are ready."""
        self._call(f"load {model}", lambda s: self._control(self._stub.load_model, s, model))

    def unload(self, model: str) -> None:
        """Unloads all versions of a model, also where there are none, and waits a little until their memory is free."""
        # What is unloading since long belongs to a model process that died; Triton waits for it for ever.
        loaded = [version for version, state in self.states(model).items() if state in ("READY", "LOADING")]
        if loaded:
            self._call(f"unload {model}", lambda s: self._control(self._stub.unload_model, s, model))
            self.wait_until_gone(model, loaded, UNLOAD_TIMEOUT_S)

    def states(self, model: str) -> dict[int, str]:
        """Triton's state of each version that it knows: READY, LOADING, UNLOADING, UNAVAILABLE."""
        index = self._call(
            "list its models", lambda s: self._control(self._stub.get_model_repository_index, s)
        )
        return {int(m.version): m.state for m in index.models if m.name == model and m.version}

    def wait_until_gone(self, model: str, versions: list[int], timeout_s: float) -> bool:
        """Whether none of the versions takes memory any more, in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = self.states(model)
            if not any(states.get(version, "UNAVAILABLE") != "UNAVAILABLE" for version in versions):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)

    def sample(self, model: str, version: int | None, request: SampleRequest) -> SampleResponse:
        """A real inference. version: None for the one that answers requests that name none."""
        named = "" if version is None else str(version)
        with Get3DClient(self.connection, model, self.timeout_s, named) as client:
            try:
                return client.sample(request)
            except (InputError, ServiceError, ValueError) as error:
                raise ReplicaError(f"{self.url}: {_line(error)}") from None

    def _control(self, method: Callable[..., Any], remaining_s: float, *arguments: Any) -> Any:
        return method(*arguments, headers=self._headers, client_timeout=remaining_s)

    def _call(self, what: str, call: Callable[[float], Any]) -> Any:
        try:
            return call_with_retries(call, self.timeout_s)
        except InferenceServerException as error:
            reason = translated(error, self.url, what, self.timeout_s)
            if status_of(error) == "INTERNAL" or isinstance(reason, InputError):
                reason = Exception(f"cannot {what}: {_line(reason)}")
            text = _line(reason)
            raise ReplicaError(text if text.startswith(self.url) else f"{self.url}: {text}") from None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."
