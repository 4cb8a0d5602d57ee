"""A server that speaks the part of the Kubeflow Pipelines v2beta1 REST API that `get3d pipeline submit` uses.

It is a real HTTP server with a memory, as strict as the real one where that matters: it parses uploads, refuses
parameters that the pipeline does not have, names that are taken and references to nothing. Its runs do what a script
says: every look at a run takes it one state further.
"""

from __future__ import annotations

import email
import email.policy
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

API = "/apis/v2beta1"


@dataclass
class KfpServer:
    """script: (state of the run, {step: state}) at every look; the last stays. failures: statuses of the next answers.

    token: wanted as bearer, where it is set.
    """

    script: list[tuple[str, dict[str, str]]] = field(default_factory=lambda: [("SUCCEEDED", {})])
    messages: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    page_size: int = 1
    failures: list[int] = field(default_factory=list)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def kfp_server(**options: Any) -> Iterator[KfpServer]:
    state = KfpServer(**options)

    class Handler(_Handler):
        server_state = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: KfpServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.server_state.requests.append(f"{method} {parts.path}")
        try:
            if self.server_state.failures:
                raise ApiError(self.server_state.failures.pop(0), "not now")
            token = self.server_state.token
            if token is not None and self.headers.get("authorization") != f"Bearer {token}":
                raise ApiError(401, "no valid token")
            status, answer = 200, self._handle(method, unquote(parts.path), query, body)
        except ApiError as error:
            status, answer = error.status, {"code": error.status, "message": str(error), "details": []}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _handle(self, method: str, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
        if not path.startswith(API):
            raise ApiError(404, f"no such path: {path}")
        words = path.removeprefix(API).strip("/").split("/")
        match method, *words:
            case ["GET", "healthz"]:
                return {"multi_user": False}
            case ["GET", "pipelines"]:
                # Those of other namespaces, and without a namespace the private ones, are not in the list.
                found = _filtered(self.server_state.pipelines, query)
                found = [p for p in found if p.get("namespace", "") == query.get("namespace", "")]
                return _page(found, "pipelines", query, 100)
            case ["POST", "pipelines"]:
                return self._create_pipeline(json.loads(body))
            case ["POST", "pipelines", "upload_version"]:
                return self._upload_version(query, body)
            case ["GET", "pipelines", pipeline_id, "versions"]:
                found = [v for v in self.server_state.versions.values() if v["pipeline_id"] == pipeline_id]
                return _page(found, "pipeline_versions", query, self.server_state.page_size)
            case ["GET", "experiments"]:
                return _page(_filtered(self.server_state.experiments, query), "experiments", query, 100)
            case ["POST", "experiments"]:
                return _store(self.server_state.experiments, "experiment_id", json.loads(body))
            case ["POST", "runs"]:
                return self._create_run(json.loads(body))
            case ["GET", "runs", run_id]:
                return self._look(run_id)
            case ["POST", "recurringruns"]:
                return self._create_recurring(json.loads(body))
        raise ApiError(404, f"no such path: {method} {path}")

    def _create_pipeline(self, body: dict[str, Any]) -> dict[str, Any]:
        taken = {(p["display_name"], p.get("namespace")) for p in self.server_state.pipelines.values()}
        if (body["display_name"], body.get("namespace")) in taken:
            raise ApiError(409, f"pipeline {body['display_name']} already exists")
        return _store(self.server_state.pipelines, "pipeline_id", body)

    def _upload_version(self, query: dict[str, str], body: bytes) -> dict[str, Any]:
        if query.get("pipelineid") not in self.server_state.pipelines:
            raise ApiError(404, "no such pipeline")
        taken = [v for v in self.server_state.versions.values() if v["pipeline_id"] == query["pipelineid"]]
        if any(version["display_name"] == query["name"] for version in taken):
            raise ApiError(409, f"version {query['name']} already exists")
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=email.policy.default)
        (part,) = [
            p
            for p in message.iter_parts()
            if p.get_param("name", header="content-disposition") == "uploadfile"
        ]
        spec, *platforms = yaml.safe_load_all(part.get_payload(decode=True))
        if spec.get("schemaVersion") != "2.1.0":
            raise ApiError(400, "no pipeline of schema 2.1.0")
        made = {
            "pipeline_id": query["pipelineid"], "display_name": query["name"],
            "pipeline_spec": {"pipeline_spec": spec, "platform_spec": platforms[0] if platforms else {}},
        }  # fmt: skip
        return _store(self.server_state.versions, "pipeline_version_id", made)

    def _checked(self, body: dict[str, Any]) -> None:
        if body.get("experiment_id") not in self.server_state.experiments:
            raise ApiError(404, "no such experiment")
        reference = body["pipeline_version_reference"]
        version = self.server_state.versions.get(reference["pipeline_version_id"])
        if version is None or version["pipeline_id"] != reference["pipeline_id"]:
            raise ApiError(404, "no such pipeline version")
        known = version["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        for name, value in body.get("runtime_config", {}).get("parameters", {}).items():
            if name not in known:
                raise ApiError(400, f"unknown parameter {name}")
            wanted = {"STRING": str, "NUMBER_INTEGER": int}[known[name]["parameterType"]]
            if type(value) is not wanted:
                raise ApiError(400, f"parameter {name} must be {wanted.__name__}")

    def _create_run(self, body: dict[str, Any]) -> dict[str, Any]:
        self._checked(body)
        return _store(self.server_state.runs, "run_id", {**body, "state": "PENDING"})

    def _create_recurring(self, body: dict[str, Any]) -> dict[str, Any]:
        self._checked(body)
        if len(body["trigger"]) != 1:
            raise ApiError(400, "one trigger, please")
        return _store(self.server_state.recurring, "recurring_run_id", body)

    def _look(self, run_id: str) -> dict[str, Any]:
        run = self.server_state.runs.get(run_id)
        if run is None:
            raise ApiError(404, "no such run")
        look = self.server_state.looks.get(run_id, 0)
        self.server_state.looks[run_id] = look + 1
        state, steps = self.server_state.script[min(look, len(self.server_state.script) - 1)]
        details = [
            {
                "task_id": name, "display_name": name, "state": step, "run_id": run_id,
                "start_time": f"2024-01-01T00:00:{order:02d}Z",
                **({"error": {"code": 13, "message": self.server_state.messages[name]}}
                   if step == "FAILED" and name in self.server_state.messages else {}),
            }
            for order, (name, step) in enumerate(steps.items())
        ]  # fmt: skip
        return {**run, "state": state, "run_details": {"task_details": details}}


def _store(where: dict[str, dict[str, Any]], key: str, body: dict[str, Any]) -> dict[str, Any]:
    identity = str(uuid.uuid4())
    where[identity] = {**body, key: identity}
    return where[identity]


def _filtered(where: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    found = list(where.values())
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        # The server knows the fields of its tables only; `name` is the display name of old clients.
        assert predicate["operation"] in ("EQUALS", 1) and predicate["key"] in ("display_name", "name"), (
            predicate
        )
        wanted = predicate.get("stringValue", predicate.get("string_value"))
        found = [item for item in found if item["display_name"] == wanted]
    return found


def _page(found: list[dict[str, Any]], name: str, query: dict[str, str], most: int) -> dict[str, Any]:
    begin = int(query.get("page_token") or 0)
    size = min(int(query.get("page_size") or most), most)
    following = {"next_page_token": str(begin + size)} if begin + size < len(found) else {}
    return {"total_size": len(found), **({name: found[begin : begin + size]} if found else {}), **following}
