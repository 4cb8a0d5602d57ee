"""A stand-in for a Kubernetes cluster, for the calls that a training job makes and no others.

It is not Kubernetes. An HTTP server answers creating, reading, listing and deleting jobs, creating services, listing
pods and events, and following a pod's log, with the objects, status codes and error bodies that the API server
documents. Behind it a loop does what the job controllers and the kubelet would: it makes a pod per node, runs the
command of the pod's container as a process of this machine, with the container's environment, keeps its output with
time stamps, and sets the states of pods and jobs. Deleting a job sends SIGTERM, and SIGKILL after the grace period.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Command = Callable[[int, list[str]], list[str]]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stamp() -> str:
    return f"{datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%S')}.{time.time_ns() % 10**9:09d}Z"


class Pod:
    """A pod and the process of its container."""

    def __init__(self, name: str, node: int, labels: dict[str, str], template: dict[str, Any]) -> None:
        self.name, self.node, self.template = name, node, template
        self.labels = {**template.get("metadata", {}).get("labels", {}), **labels}
        self.uid, self.created = str(uuid.uuid4()), _now()
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self.reader: threading.Thread | None = None
        self.disrupted = self.deleted = False

    @property
    def phase(self) -> str:
        if self.process is None:
            return "Pending"
        code = self.process.poll()
        if code is None or (self.reader is not None and self.reader.is_alive()):
            return "Running"
        return "Failed" if code or self.disrupted else "Succeeded"

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(f"{_stamp()} {line}")

    def kill(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            # A container ends with its process 1, to which the kubelet sends the signal.
            with contextlib.suppress(ProcessLookupError):
                (os.kill if number == signal.SIGTERM else os.killpg)(self.process.pid, number)

    def to_json(self, namespace: str, waiting: str) -> dict[str, Any]:
        phase = self.phase
        status: dict[str, Any] = {"phase": phase, "conditions": []}
        if phase == "Pending" and waiting:
            status["conditions"].append(
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": waiting}
            )
        container = self.template["spec"]["containers"][0]["name"]
        if phase in ("Succeeded", "Failed"):
            code = self.process.returncode
            ended = {
                "exitCode": code if code >= 0 else 128 - code,
                "reason": "Error" if code else "Completed",
            }
            if code == -signal.SIGKILL:
                ended["reason"] = "OOMKilled"
            status["containerStatuses"] = [
                {
                    "name": container, "image": "i", "imageID": "i", "ready": False, "restartCount": 0,
                    "state": {"terminated": ended},
                }
            ]  # fmt: skip
        if self.disrupted:
            status |= {"reason": "Preempted", "message": "for a pod of higher priority"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": namespace, "uid": self.uid, "labels": self.labels,
                "creationTimestamp": self.created,
            },
            "spec": {"containers": [{"name": container, "image": "i"}]},
            "status": status,
        }  # fmt: skip


class Cluster:
    """The stand-in. `url` is where it answers; `requests` what it was asked; `kubeconfig` writes a file for clients.

    capacity: pods that find a place. command: changes the command that a pod runs. environment: of every container.
    """

    def __init__(
        self, capacity: int = 100, command: Command | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.capacity, self.command, self.environment = (
            capacity,
            command or (lambda _, c: c),
            environment or {},
        )
        self.jobs: dict[str, dict[str, Any]] = {}
        self.services: list[dict[str, Any]] = []
        self.pods: list[Pod] = []
        self.events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.waiting = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        self.failing: dict[str, int] = {}
        """Beginnings of request lines, and how many more of them are answered with 500."""
        self.cut_after: int | None = None
        """Log streams break after so many lines."""
        self._lock = threading.RLock()
        self._stop = threading.Event()
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Cluster:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        threading.Thread(target=self._control, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        for pod in self.pods:
            pod.kill(signal.SIGKILL)

    def kubeconfig(self, path: Path) -> Path:
        named = {
            "clusters": {"cluster": {"server": self.url}},
            "users": {"user": {"token": "stand-in"}},
            "contexts": {"context": {"cluster": "x", "user": "x"}},
        }
        content = {key: [{"name": "x", **value}] for key, value in named.items()}
        path.write_text(
            yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "x", **content})
        )
        return path

    def preempt(self, pod: Pod, grace_s: float) -> None:
        """What happens to a pod that makes way for one of higher priority."""
        pod.disrupted = True
        self._terminate([pod], grace_s)

    def _terminate(self, pods: list[Pod], grace_s: float) -> None:
        for pod in pods:
            pod.kill(signal.SIGTERM)

        def later() -> None:
            deadline = time.monotonic() + grace_s
            while time.monotonic() < deadline and any(pod.phase == "Running" for pod in pods):
                time.sleep(0.02)
            for pod in pods:
                pod.kill(signal.SIGKILL)
                pod.deleted = pod.deleted or not pod.disrupted

        threading.Thread(target=later, daemon=True).start()

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            job["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
            job["status"] = {}
            self.jobs[job["metadata"]["name"]] = job
            return job

    def delete(self, name: str) -> None:
        with self._lock:
            job = self.jobs.pop(name)
            pods = self.pods_of(name)
            templates = self._templates(job)
            self.services = [s for s in self.services if s["metadata"]["name"] != name]
        self._terminate(pods, templates[0][1]["spec"].get("terminationGracePeriodSeconds", 30))

    def pods_of(self, job: str) -> list[Pod]:
        return [pod for pod in self.pods if job in pod.labels.values() and not pod.deleted]

    @staticmethod
    def _templates(job: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """(name, template) of every pod."""
        name, spec = job["metadata"]["name"], job["spec"]
        if "tasks" in spec:
            return [(f"{name}-{task['name']}-0", task["template"]) for task in spec["tasks"]]
        return [(f"{name}-{i}", spec["template"]) for i in range(spec["completions"])]

    def _control(self) -> None:
        while not self._stop.wait(0.02):
            with self._lock:
                for job in list(self.jobs.values()):
                    (self._volcano if "tasks" in job["spec"] else self._indexed)(job)

    def _make(self, job: dict[str, Any], node: int, labels: dict[str, str], suffix: str = "") -> None:
        name, template = self._templates(job)[node]
        self.pods.append(Pod(name + suffix, node, labels, template))

    def _run(self, pod: Pod, extra: dict[str, str]) -> None:
        (container,) = pod.template["spec"]["containers"]
        own = {item["name"]: item.get("value", "") for item in container["env"]}
        environment = {"PATH": os.environ["PATH"], **own, **extra, **self.environment}
        pod.start(self.command(pod.node, container["command"]), environment)

    def _places(self) -> int:
        return self.capacity - sum(pod.phase == "Running" for pod in self.pods)

    def _volcano(self, job: dict[str, Any]) -> None:
        """All pods or none; a pod that fails ends the job; one that is preempted restarts all of it."""
        name, state = job["metadata"]["name"], job["status"].setdefault("state", {"phase": "Pending"})
        if state["phase"] in ("Completed", "Terminated"):
            return
        pods = self.pods_of(name)
        if not pods:
            for node in range(len(job["spec"]["tasks"])):
                self._make(job, node, {"volcano.sh/job-name": name})
            return
        phases = [pod.phase for pod in pods]
        if all(phase == "Pending" for phase in phases):
            if self._places() >= len(pods):
                for pod in pods:
                    self._run(pod, {"VC_TRAINER_0_HOSTS": "localhost"})
                state["phase"] = "Running"
        elif any(pod.disrupted and pod.phase == "Failed" for pod in pods):
            others = [pod for pod in pods if pod.phase == "Running"]
            self._terminate(others, 30)
            if not others:
                for pod in pods:
                    pod.deleted = True
                state["phase"] = "Restarting"
        elif "Failed" in phases and not any(pod.disrupted for pod in pods):
            state |= {"phase": "Terminating"}
            others = [pod for pod in pods if pod.phase == "Running"]
            for pod in others:
                pod.kill(signal.SIGTERM)
            if not others:
                state |= {"phase": "Terminated", "reason": "PodFailed", "message": "a pod failed"}
        elif all(phase == "Succeeded" for phase in phases):
            state["phase"] = "Completed"

    def _indexed(self, job: dict[str, Any]) -> None:
        """A pod at a time, as there are places; failed ones are replaced up to the limit, preempted ones always."""
        name, spec, status = job["metadata"]["name"], job["spec"], job["status"]
        if status.get("conditions"):
            return
        pods = self.pods_of(name)
        for node in range(spec["completions"]):
            mine = [pod for pod in pods if pod.node == node]
            if not mine or all(pod.phase == "Failed" for pod in mine):
                labels = {
                    "batch.kubernetes.io/job-name": name,
                    "batch.kubernetes.io/job-completion-index": str(node),
                }
                self._make(job, node, labels, f"-{uuid.uuid4().hex[:5]}")
        failed = [pod for pod in pods if pod.phase == "Failed" and not pod.disrupted]
        if len(failed) > spec["backoffLimit"]:
            for pod in self.pods_of(name):
                if pod.phase == "Pending":
                    pod.deleted = True
            running = [pod for pod in pods if pod.phase == "Running"]
            self._terminate(running, 5)
            message = "Job has reached the specified backoff limit"
            status["conditions"] = [
                {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": message}
            ]
            return
        if sum(pod.phase == "Succeeded" for pod in pods) == spec["completions"]:
            status["conditions"] = [{"type": "Complete", "status": "True"}]
            return
        for pod in self.pods_of(name):
            if pod.phase == "Pending" and self._places() > 0:
                self._run(pod, {"JOB_COMPLETION_INDEX": str(pod.node), "GET3D_FIRST_POD": "localhost"})


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _error(self, code: int, reason: str, message: str) -> None:
        self._answer(
            code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code}
        )  # fmt: skip

    def _handle(self) -> None:
        cluster, url = self.cluster, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        line = f"{self.command} {url.path}"
        cluster.requests.append(f"{line}?{url.query}" if url.query else line)
        if self.headers.get("Authorization") != "Bearer stand-in":
            return self._error(401, "Unauthorized", "Unauthorized")
        for beginning, left in cluster.failing.items():
            if left and line.startswith(beginning):
                cluster.failing[beginning] -= 1
                return self._error(500, "InternalError", "etcdserver: request timed out")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        with cluster._lock:
            if parts[0] == "apis" and parts[1] in ("batch", "batch.volcano.sh") and parts[5] == "jobs":
                return self._jobs(parts[6:], query, body)
            if parts[:2] == ["api", "v1"] and parts[4] == "services" and self.command == "POST":
                cluster.services.append(body)
                return self._answer(201, body)
            if parts[:2] == ["api", "v1"] and parts[4] == "events":
                return self._answer(200, {"kind": "EventList", "apiVersion": "v1", "items": cluster.events})
            if parts[:2] == ["api", "v1"] and parts[4:] == ["pods"]:
                key, _, value = query["labelSelector"].partition("=")
                found = [pod for pod in cluster.pods if pod.labels.get(key) == value and not pod.deleted]
                items = [pod.to_json(parts[3], cluster.waiting) for pod in found]
                return self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})
        if parts[4] == "pods" and parts[6:] == ["log"]:
            return self._log(parts[5], query)
        return self._error(404, "NotFound", f"the stand-in knows no {line}")

    def _jobs(self, rest: list[str], query: dict[str, str], body: dict[str, Any] | None) -> None:
        cluster = self.cluster
        if self.command == "POST":
            if body["metadata"]["name"] in cluster.jobs:
                return self._error(409, "AlreadyExists", f"jobs {body['metadata']['name']!r} already exists")
            return self._answer(201, cluster.create(body))
        if not rest:
            key, _, value = query["labelSelector"].partition("=")
            found = [
                job for job in cluster.jobs.values() if job["metadata"].get("labels", {}).get(key) == value
            ]
            return self._answer(200, {"kind": "JobList", "apiVersion": "v1", "items": found})
        if rest[0] not in cluster.jobs:
            return self._error(404, "NotFound", f"jobs {rest[0]!r} not found")
        if self.command == "DELETE":
            cluster.delete(rest[0])
            return self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        return self._answer(200, cluster.jobs[rest[0]])

    def _log(self, name: str, query: dict[str, str]) -> None:
        pod = next((pod for pod in self.cluster.pods if pod.name == name and not pod.deleted), None)
        if pod is None:
            return self._error(404, "NotFound", f"pods {name!r} not found")
        if pod.phase == "Pending":
            return self._error(
                400, "BadRequest", f"container in pod {name!r} is waiting to start: ContainerCreating"
            )
        assert query["follow"].lower() == query["timestamps"].lower() == "true"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        since = datetime.now(UTC).timestamp() - float(query.get("sinceSeconds", 1e9))
        while True:
            ended = pod.phase != "Running"
            for line in pod.lines[sent:]:
                sent += 1
                if datetime.fromisoformat(line[:26] + "+00:00").timestamp() < since:
                    continue
                content = line.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
                if self.cluster.cut_after is not None and sent >= self.cluster.cut_after:
                    self.cluster.cut_after = None
                    self.close_connection = True
                    return None
            self.wfile.flush()
            if ended:
                self.wfile.write(b"0\r\n\r\n")
                return None
            time.sleep(0.02)

    def do_GET(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._handle()

    do_POST = do_DELETE = do_GET
