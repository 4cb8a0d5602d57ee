"""How to reach a server: address, TLS and token, retries, and what its errors mean. Shared by every client.

A token travels in the header that Triton's restricted protocols ask for, and as `Authorization` for gateways.
"""

from __future__ import annotations

import argparse
import atexit
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from serving import environment
from serving.tensors import REFUSALS

DEFAULT_URL = "localhost:8001"
TOKEN_HEADER = "authorization"
GRPC_TOKEN_HEADER = f"triton-grpc-protocol-{TOKEN_HEADER}"
"""Triton compares this header of gRPC calls with what its restricted protocols were given."""
MIN_TOKEN_LENGTH = 16
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
MAX_TIMEOUT_S = 86_400.0
"""gRPC takes none that is much longer."""
RECONNECT_MS = (100, 2000)
"""First and longest pause before gRPC connects again; its own two minutes would outlast a restart."""

FULL_QUEUE = "maximum queue size"
"""Triton's words where a request finds the queue full; the model works, or the queue would time out."""
_NO_VERSIONS = "has no available versions"
"""Triton's words, with NOT_FOUND, while it unloads the model before it ends. A model that it never had "is not found"."""
# What Triton answers with UNAVAILABLE, though asking again cannot help.
_REFUSED = "protocol is restricted"
_LOAD_FAILED = "load failed for model"
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED|Hostname Verification|handshake failed", re.IGNORECASE)


class ServiceError(RuntimeError):
    """The service failed to answer a good request; `status` is the gRPC status name."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Tls:
    """An encrypted connection. Files are PEM.

    ca: certificates to trust; None: those that gRPC brings. cert, key: the client's own, where the server asks for
    one. server_name: the name in the server's certificate, where the address is another.
    Raises InputError for files that are missing or do not go together.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InputError("a client certificate needs its key, and a key its certificate; give both")
        for path in (self.ca, self.cert, self.key):
            if path is not None:
                check_pem(path)


@dataclass(frozen=True)
class Connection:
    """A gRPC endpoint "host:port", and what it asks for. token: the spaces and line ends around it do not count.

    Raises InputError for an address that is none, and a token that no header can carry.
    """

    url: str
    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        host, _, port = self.url.rpartition(":")
        if "://" in self.url or not host or not port.isascii() or not port.isdigit():
            raise InputError(
                f"server url {self.url!r} must be host:port of the gRPC endpoint, for instance {DEFAULT_URL}"
            )
        if self.token is not None:
            # As a file has it that ends with a line end. gRPC would fail at every call, and not say why.
            object.__setattr__(self, "token", self.token.strip())
            if not re.fullmatch(r"[!-~]+", self.token):
                raise InputError("the token is empty, or has characters that no header can carry; check it")

    @property
    def headers(self) -> dict[str, str]:
        """Metadata of every call."""
        if self.token is None:
            return {}
        return {name: bearer(self.token) for name in (TOKEN_HEADER, GRPC_TOKEN_HEADER)}

    def client_options(self) -> dict[str, Any]:
        """Arguments of tritonclient's client, synchronous or asyncio."""
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
            ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS[0]),
            ("grpc.min_reconnect_backoff_ms", RECONNECT_MS[0]),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS[1]),
            # A name with several addresses, such as a headless service, is several replicas.
            ("grpc.lb_policy_name", "round_robin"),
        ]
        if self.tls is None:
            return {"url": self.url, "channel_args": options}
        if self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return {
            "url": self.url,
            "ssl": True,
            "root_certificates": _text(self.tls.ca),
            "private_key": _text(self.tls.key),
            "certificate_chain": _text(self.tls.cert),
            "channel_args": options,
        }


class Attempts:
    """The attempts of one call: how long the next may take, and the pause before it.

    Only what `is_away` says is tried again, with pauses that grow and are jittered, so that clients that were refused
    together do not come back together.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._backoff_s = FIRST_BACKOFF_S

    @property
    def remaining_s(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def pause_s(self, error: InferenceServerException) -> float | None:
        """Seconds to wait before the next attempt; None: there is none."""
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)
        text = str(error)
        if (
            not is_away(error)
            or _REFUSED in text
            or _LOAD_FAILED in text
            or _UNTRUSTED.search(text)
            or time.monotonic() + pause_s >= self._deadline
        ):
            return None
        self._backoff_s = min(2.0 * self._backoff_s, MAX_BACKOFF_S)
        return pause_s


class Refusals:
    """How often a client found the queue full and has not told the model yet. For any number of threads."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    @contextmanager
    def told(self) -> Iterator[dict[str, int] | None]:
        """Around one attempt: the parameters that it carries. They count as told unless it did not reach the model."""
        with self._lock:
            count, self._count = self._count, 0
        try:
            yield {REFUSALS: count} if count else None
        except InferenceServerException as error:
            if is_away(error):
                with self._lock:
                    self._count += count + (FULL_QUEUE in str(error).lower())
            raise


def check_timeout(name: str, seconds: float) -> None:
    """Raises InputError for what is no deadline: 0 and less, NaN, more than a day."""
    if not 0.0 < seconds <= MAX_TIMEOUT_S:
        raise InputError(f"{name} must be above 0 and at most {MAX_TIMEOUT_S:g} seconds, not {seconds:g}")


def call_with_retries(call: Callable[[float], Any], timeout_s: float) -> Any:
    """The result of `call(seconds it may take)`. Raises what it raises last."""
    attempts = Attempts(timeout_s)
    while True:
        try:
            return call(attempts.remaining_s)
        except InferenceServerException as error:
            pause_s = attempts.pause_s(error)
            if pause_s is None:
                raise
            time.sleep(pause_s)


def is_away(error: InferenceServerException) -> bool:
    """Whether the server is busy, restarting or draining, and has not worked on the call, or will not answer it."""
    status, text = status_of(error), error.message() or ""
    return (
        status == "UNAVAILABLE"
        or (status == "NOT_FOUND" and _NO_VERSIONS in text)
        # gRPC's own, of a call that a server which ends lets go. The model says why it stops one.
        or (status == "CANCELLED" and text == "CANCELLED")
    )


def status_of(error: InferenceServerException) -> str:
    """The gRPC status name. The client library reports its own deadline as a status, too."""
    return (error.status() or "UNKNOWN").removeprefix("StatusCode.")


def translated(error: InferenceServerException, url: str, served: str, timeout_s: float) -> Exception:
    """The error in our terms: InputError for what the caller can put right, ServiceError for the service's failures."""
    status, text = status_of(error), " ".join((error.message() or "no reason given").split())
    if status == "INVALID_ARGUMENT":
        return InputError(text)
    if status == "NOT_FOUND":
        return InputError(f"{url} serves no {served}: {text}")
    if _REFUSED in text or status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return InputError(f"{url} refuses calls without its token; give the right one (--token-file)")
    if status == "UNAVAILABLE" and _UNTRUSTED.search(text):
        return InputError(
            f"{url} does not have a certificate that is trusted here, or is not encrypted; check --tls-ca and "
            f"--tls-server-name ({text})"
        )
    if status == "DEADLINE_EXCEEDED":
        return ServiceError(f"{url} gave no answer within {timeout_s:g} s", status)
    if status == "UNAVAILABLE":
        return ServiceError(
            f"{url} is not reachable or too busy ({text}); gave up after {timeout_s:g} s", status
        )
    return ServiceError(f"{url}: {status}: {text}", status)


def bearer(token: str) -> str:
    """The value of the token's header."""
    return f"Bearer {token}"


def read_token(path: Path) -> str:
    """The token in a file. Raises InputError where it is missing, too short to be secret, or unfit for a header."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the token ({getattr(error, 'strerror', error)})") from None
    return _checked_token(text, path)


def token_from(path: Path | None, variable: str) -> str | None:
    """The token in a file, or else in an environment variable; None: there is none. Raises InputError."""
    if path is not None:
        return read_token(path)
    text = os.environ.get(variable)
    return _checked_token(text, variable) if text else None


def _checked_token(text: str, source: object) -> str:
    token = text.strip()
    if len(token) < MIN_TOKEN_LENGTH or not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise InputError(
            f"{source}: a token has at least {MIN_TOKEN_LENGTH} letters, digits or ._~+/=-, and nothing else; "
            "make one with: openssl rand -hex 32"
        )
    return token


def check_pem(path: Path) -> None:
    """Raises InputError unless the file can be read and looks like PEM."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if b"-----BEGIN " not in content:
        raise InputError(f"{path}: is not a PEM file (it has no -----BEGIN line)")


def add_connection_arguments(parser: argparse.ArgumentParser, url: bool = True) -> None:
    """The options of every command that talks to a server."""
    if url:
        parser.add_argument("--url", default=DEFAULT_URL, help="gRPC endpoint of the server")
    parser.add_argument(
        "--token-file",
        type=Path,
        help=f"file with the server's token; none: the environment's {environment.TOKEN}",
    )
    parser.add_argument("--tls", action="store_true", help="encrypt, trusting the usual authorities")
    parser.add_argument(
        "--tls-ca",
        type=Path,
        help=f"encrypt, trusting the certificates of this PEM file; none: the environment's {environment.TLS_CA}",
    )
    parser.add_argument("--tls-cert", type=Path, help="the client's certificate, where the server wants one")
    parser.add_argument("--tls-key", type=Path, help="key of --tls-cert")
    parser.add_argument("--tls-server-name", help="name in the server's certificate, if not that of the url")


def connection_from(args: argparse.Namespace, url: str | None = None) -> Connection:
    """The connection that the options and the environment describe. Raises InputError."""
    files = (args.tls_ca or _ca_from_environment(), args.tls_cert, args.tls_key, args.tls_server_name)
    tls = Tls(*files) if args.tls or any(files) else None
    return Connection(url or args.url, tls, token_from(args.token_file, environment.TOKEN))


def _ca_from_environment() -> Path | None:
    value = os.environ.get(environment.TLS_CA)
    if not value:
        return None
    return _file_of(value) if "-----BEGIN " in value else Path(value)


@cache
def _file_of(content: str) -> Path:
    """A file with this content, until the process ends: gRPC's client wants a path."""
    with tempfile.NamedTemporaryFile("w", prefix="get3d-ca-", suffix=".pem", delete=False) as file:
        file.write(content)
    path = Path(file.name)
    atexit.register(path.unlink, missing_ok=True)
    return path


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
