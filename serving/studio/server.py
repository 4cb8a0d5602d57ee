"""The studio's HTTP server: serves the page, and samples from a Triton server on its behalf. No torch.

    GET  /                       the page; its script and style sheet beside it
    GET  /api/info               JSON: url (of the Triton server)
    POST /api/sample             JSON with fields of `serving.codec.SampleRequest` (`FIELDS`) -> the GLB, and its
                                 metadata as JSON in the header X-Get3D-Metadata
    errors                       JSON: error (one line)

Files are read once, at the start, and found in a table: nothing of a request reaches the file system. Other sites
cannot use it through a visitor's browser: it answers to its own names alone, and samples for JSON alone, which
browsers do not send elsewhere unasked.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from get3d_model.errors import InputError
from serving.codec import SampleRequest, SampleResponse
from serving.connection import ServiceError
from serving.studio.bundle import PAGES, read_bundle

FIELDS = (
    "seed", "seed_tex", "weights", "weights_tex", "truncation_psi", "texture_resolution", "target_triangles",
    "class_name",
)  # fmt: skip
"""What a page may ask for; the format is always GLB."""
METADATA_HEADER = "X-Get3D-Metadata"
MAX_BODY_BYTES = 16 << 10
MAX_SAMPLES_UNDER_WAY = 8
"""Above it a request is refused, so that visitors cannot pile up threads and meshes."""
IDLE_TIMEOUT_S = 60.0
# Blob and data addresses hold the textures of a mesh, which never leave the browser.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Samples(Protocol):
    """What the studio needs of `serving.client.Get3DClient`."""

    url: str

    def sample(self, request: SampleRequest) -> SampleResponse: ...


class StudioServer(ThreadingHTTPServer):
    """Listens from its creation on; `serve_forever` answers. port 0: any free one.

    Raises InputError where it cannot listen.
    """

    daemon_threads = True
    # A second studio on the same port must fail; an address in TIME_WAIT must not.
    allow_reuse_address = True

    def __init__(self, client: Samples, host: str = "127.0.0.1", port: int = 8080) -> None:
        self.client = client
        self.host = host
        self.pages = {f"/{name}": (PAGES[name], content) for name, content in read_bundle().items()}
        self.pages["/"] = self.pages["/index.html"]
        self.places = threading.BoundedSemaphore(MAX_SAMPLES_UNDER_WAY)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"cannot listen on {host}:{port} ({reason}); free it or choose another --port"
            ) from None

    @property
    def url(self) -> str:
        host = "localhost" if _is_any(self.host) else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def answers_to(self, host_header: str) -> bool:
        """Whether a request for this name is meant for us. Where only this machine reaches us, a foreign name is the
        trick of a site that has its name point here; elsewhere proxies may give us any name."""
        if not _is_loopback(self.host):
            return True
        name = host_header.rpartition(":")[0] if ":" in host_header.rpartition("]")[2] else host_header
        return name.lower() in {"localhost", self.host.lower()} or _is_loopback(name.strip("[]"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor that goes away before its answer is there is no error."""


class _Refused(Exception):
    """An answer other than 200; its text goes to the page."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "get3d-studio"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    server: StudioServer

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_HEAD(self) -> None:
        self._guarded(self._get)

    def do_POST(self) -> None:
        self._guarded(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the page shows what went wrong."""

    def _get(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/info":
            self._send_json(HTTPStatus.OK, {"url": self.server.client.url})
            return
        if path not in self.server.pages:
            raise _Refused(HTTPStatus.NOT_FOUND, "the studio has no such page")
        kind, content = self.server.pages[path]
        self._send(HTTPStatus.OK, kind, content)

    def _post(self) -> None:
        body = self._body()
        if self.path != "/api/sample":
            raise _Refused(HTTPStatus.NOT_FOUND, "the studio has no such page")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        request = request_of(body)
        if not self.server.places.acquire(blocking=False):
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the studio is busy; try again in a moment")
        try:
            response = self.server.client.sample(request)
        finally:
            self.server.places.release()
        metadata = json.dumps(asdict(response.metadata))
        self._send(HTTPStatus.OK, "model/gltf-binary", response.mesh, {METADATA_HEADER: metadata})

    def _body(self) -> bytes:
        """The whole body, so that the connection can go on after an error."""
        length = self.headers.get("Content-Length", "")
        # Python refuses to read a number of thousands of digits at all.
        if not (length.isascii() and length.isdigit()) or len(length) > 20 or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has 0 to {MAX_BODY_BYTES} bytes of JSON"
            )
        return self.rfile.read(int(length))

    def _guarded(self, answer: Any) -> None:
        try:
            if not self.server.answers_to(self.headers.get("Host", "")):
                self.close_connection = True
                raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, f"open {self.server.url} instead")
            answer()
        except _Refused as error:
            self._send_json(error.status, {"error": str(error)})
        except InputError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": _one_line(error)})
        except ServiceError as error:
            late = error.status == "DEADLINE_EXCEEDED"
            status = HTTPStatus.GATEWAY_TIMEOUT if late else HTTPStatus.BAD_GATEWAY
            self._send_json(status, {"error": _one_line(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            # A bug of ours or an answer that is none: the page says so, and the studio goes on.
            text = f"{type(error).__name__}: {_one_line(error)}"
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": text})

    def _send_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(
        self, status: HTTPStatus, kind: str, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def request_of(body: bytes) -> SampleRequest:
    """The request in a JSON object with fields of `FIELDS`. Raises InputError."""
    try:
        wish = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the request is no JSON") from None
    if not isinstance(wish, dict):
        raise InputError("the request must be a JSON object")
    unknown = sorted(wish.keys() - set(FIELDS))
    if unknown:
        raise InputError(f"unknown field {unknown[0][:40]!r}; the fields are {', '.join(FIELDS)}")
    return SampleRequest(**wish, file_format="glb")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_any(host: str) -> bool:
    return host in ("", "0.0.0.0")
