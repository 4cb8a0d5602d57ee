"""Runs the real Triton server on this machine: `get3d serve`, the tests and the demo use it.

The server is a child process that cannot outlive this one, and whose shared memory is removed with it. It loads and
unloads versions on demand (`get3d deploy`), and a load that fails does not touch what it serves.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from monitoring.logs import structured
from serving.access import OPEN, ServerAccess, access_from, add_access_arguments
from serving.codec import MODEL_NAME
from serving.connection import MAX_TIMEOUT_S, check_timeout
from serving.repository import check_repository, list_served, versions
from serving.triton_files import find_triton, make_backend_directory, server_environment

LOG_LINES = 15
DRAIN_TIMEOUT_S = 5.0
STOP_MARGIN_S = 5.0
"""Between the end of draining and the use of force."""
TO_STDOUT = Path("-")
"""Instead of a log file: the log goes where ours does."""
REAP_TIMEOUT_S = 1.0
"""A model process that ended in order is gone by then; one that died stays as a zombie."""
STUB_PROCESS = "triton_python_b"
"""Start of the model processes' name (the kernel keeps 15 characters)."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class ServerError(RuntimeError):
    """The server did not start, or died. The message ends with the last lines of its log."""


@dataclass(frozen=True)
class Ports:
    """TCP ports; 0 chooses a free one."""

    grpc: int = 0
    http: int = 0
    metrics: int = 0


class TritonServer:
    """A context manager around one server process.

    On entry the model is ready to answer, or, with `may_be_empty` and nothing deployed yet, the server waits for
    `get3d deploy`. `grpc_url` and `http_url` are "host:port", `metrics_url` is whole.
    Enter it in a thread that lives as long as the server should: the kernel stops it with that thread.
    Raises InputError for a missing wheel or repository and for ports in use, ServerError for later failures.
    """

    def __init__(
        self,
        repository: Path,
        ports: Ports = Ports(),
        host: str = "127.0.0.1",
        start_timeout_s: float = 120.0,
        log: Path | None = None,
        access: ServerAccess = OPEN,
        may_be_empty: bool = False,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
    ) -> None:
        self.repository = Path(repository)
        self.host = host
        self.access = access
        self.may_be_empty = may_be_empty
        self.drain_timeout_s = drain_timeout_s
        self.start_timeout_s = start_timeout_s
        self._wanted_ports = ports
        self._folder: Path | None = None
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._stubs: dict[int, str] = {}

    def __enter__(self) -> TritonServer:
        self._empty = self.may_be_empty and not versions(self.repository)
        if self._empty:
            try:
                (self.repository / MODEL_NAME).mkdir(parents=True, exist_ok=True)
            except OSError:
                # Where we may only read, `get3d deploy` makes it.
                if not self.repository.is_dir():
                    raise
        else:
            check_repository(self.repository)
        files = find_triton()
        self.ports = _resolve_ports(self._wanted_ports, self.host)
        self._folder = Path(tempfile.mkdtemp(prefix="get3d-triton-"))
        self.log = self._log or self._folder / "triton.log"
        try:
            backends = make_backend_directory(files, self._folder / "backends")
            with self._open_log() as log:
                self._process = subprocess.Popen(
                    [str(files.binary), *self._options(backends)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=server_environment(files),
                    # A session of its own: Ctrl-C reaches us only, and we stop the server in order.
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            self._wait_until_ready()
            self._dead_model_processes()  # learns which processes there are
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def grpc_url(self) -> str:
        return f"{_reachable(self.host)}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        return f"{_reachable(self.access.http_host(self.host))}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        return f"http://{_reachable(self.host)}:{self.ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def check(self) -> None:
        """Raises ServerError when the server or one of its model processes has died.

        Triton does not restart a model process that died, and goes on calling the model ready.
        """
        code = self._process.poll()
        dead = set() if code is not None else self._dead_model_processes()
        if dead:
            # A dying server takes a moment to be reported, and its model processes may go first.
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(REAP_TIMEOUT_S)
        if code is not None:
            raise ServerError(f"the Triton server has stopped ({_exit_text(code)}){self._log_tail()}")
        if dead & self._dead_model_processes():
            # Triton would wait for it as long as it may.
            self.drain_timeout_s = min(self.drain_timeout_s, DRAIN_TIMEOUT_S)
            raise ServerError(f"a model process of the Triton server has died; restart it{self._log_tail()}")

    def stop(self) -> None:
        """Stops the server, by force if it does not go by itself; safe to call again."""
        process, folder, self._folder = self._process, self._folder, None
        if process is not None:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self.drain_timeout_s + STOP_MARGIN_S)
            # The model processes are in the server's group; after an orderly stop there is none left.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if folder is not None:
            for region in Path("/dev/shm").glob(f"{folder.name}*"):
                region.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)

    def _options(self, backends: Path) -> list[str]:
        return [
            f"--model-repository={self.repository.resolve()}",
            f"--backend-directory={backends}",
            "--disable-auto-complete-config",
            # Versions come and go by `get3d deploy`; one that fails to load leaves the others, and readiness, alone.
            "--model-control-mode=explicit",
            "--strict-readiness=false",
            *([] if self._empty else [f"--load-model={MODEL_NAME}"]),
            *self.access.options(self.host),
            f"--grpc-address={self.host}",
            f"--http-address={self.access.http_host(self.host)}",
            f"--metrics-address={self.host}",
            f"--grpc-port={self.ports.grpc}",
            f"--http-port={self.ports.http}",
            f"--metrics-port={self.ports.metrics}",
            # Told to end, Triton takes no new requests and first answers those it has.
            f"--exit-timeout-secs={math.ceil(self.drain_timeout_s)}",
            # Names of our own, so that what a killed server leaves in /dev/shm can be told apart and removed.
            f"--backend-config=python,shm-region-prefix-name={self._folder.name}",
        ]

    def _open_log(self) -> AbstractContextManager[Any]:
        if self.log == TO_STDOUT:
            return nullcontext()
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            return open(self.log, "wb")
        except OSError as error:
            raise InputError(f"--log {self.log}: cannot be written ({error.strerror})") from None

    def _wait_until_ready(self) -> None:
        url = f"http://{self.http_url}/v2/" + ("health/live" if self._empty else f"models/{MODEL_NAME}/ready")
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            code = self._process.poll()
            if code is not None:
                raise ServerError(f"the Triton server did not start ({_exit_text(code)}){self._log_tail()}")
            try:
                with urllib.request.urlopen(url, timeout=5.0):
                    return
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the model was not ready after {self.start_timeout_s:g} s{self._log_tail()}"
                )
            time.sleep(0.05)

    def _dead_model_processes(self) -> set[int]:
        """Ids of model processes that died though their version is served.

        Triton never waits for those, so they remain as zombies. One that never worked, such as that of a version which
        `get3d deploy` is testing or has taken back, is no reason to stop the others.
        """
        dead = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                before, after = stat.read_text().rsplit(")", 1)
                state, parent = after.split()[:2]
                if int(parent) != self.pid or not before.split("(", 1)[1].startswith(STUB_PROCESS):
                    continue
                process = int(stat.parent.name)
                if state == "Z":
                    dead.add(process)
                elif process not in self._stubs:
                    # Its arguments name the version's folder; a zombie's are gone.
                    self._stubs[process] = (stat.parent / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # it ended while we looked
        if not dead:
            return dead
        served = [f"/{MODEL_NAME}/{number}/" for number in list_served(self.repository)]
        return {p for p in dead if any(folder in self._stubs.get(p, "") for folder in served)}

    def _log_tail(self) -> str:
        try:
            lines = [] if self.log == TO_STDOUT else self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        if not lines:
            return ""
        # Triton ends with a table of its options; the reason is in the lines that say what happened.
        told = [line for line in lines if line.strip() and line[0] not in "+|"]
        return "\nlast lines of its log:\n  " + "\n  ".join(told[-LOG_LINES:])


def _resolve_ports(wanted: Ports, host: str) -> Ports:
    """Fills in free ports; raises InputError where a given port is in use or the host is not ours."""
    sockets, chosen = [], {}
    given = [port for port in vars(wanted).values() if port]
    if len(set(given)) < len(given):
        raise InputError("the ports of gRPC, HTTP and metrics have to differ; 0 takes any free one")
    try:
        for name, port in vars(wanted).items():
            listener = socket.socket()
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise InputError(
                    f"cannot listen on {host}:{port} ({reason}); free it or choose another --{name}-port"
                ) from None
            chosen[name] = listener.getsockname()[1]
    finally:
        for listener in sockets:
            listener.close()
    return Ports(**chosen)


def _reachable(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _die_with_parent() -> None:
    """Runs in the child before it becomes the server: the kernel stops it when our thread ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repository", type=Path, required=True, help="what get3d export has written")
    parser.add_argument("--grpc-port", type=int, default=8001, help="0: any free one")
    parser.add_argument("--http-port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--metrics-port", type=int, default=8002, help="0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds that the model may take to load"
    )
    parser.add_argument(
        "--wait-for-deploy", action="store_true", help="start although nothing has been deployed here yet"
    )
    parser.add_argument(
        "--drain-timeout",
        type=float,
        default=DRAIN_TIMEOUT_S,
        help="seconds that requests under way have when the server is told to end",
    )
    add_access_arguments(parser)
    parser.add_argument(
        "--log", type=Path, help="file for the server's log, - for here; none: a temporary one"
    )


def run(args: argparse.Namespace) -> None:
    """Serves until Ctrl-C or SIGTERM. Raises InputError; exits with 1 if the server dies."""
    with structured("serve"):
        _serve(args)


def _serve(args: argparse.Namespace) -> None:
    check_timeout("--timeout", args.timeout)
    if not 0.0 <= args.drain_timeout <= MAX_TIMEOUT_S:
        raise InputError(
            f"--drain-timeout must be 0 to {MAX_TIMEOUT_S:g} seconds, not {args.drain_timeout:g}"
        )
    ports = Ports(args.grpc_port, args.http_port, args.metrics_port)
    access = access_from(args)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        print(f"starting Triton with {args.repository} ...", flush=True)
        with TritonServer(
            args.repository,
            ports,
            args.host,
            args.timeout,
            args.log,
            access,
            args.wait_for_deploy,
            args.drain_timeout,
        ) as server:
            print(f"READY  grpc {server.grpc_url}  http {server.http_url}  metrics {server.metrics_url}")
            print(
                f"try: get3d sample --url {server.grpc_url} --out samples   (Ctrl-C stops the server)",
                flush=True,
            )
            while True:
                time.sleep(1.0)
                server.check()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except ServerError as error:
        # Not a bug of this process: its traceback would only hide what the server's log says.
        raise SystemExit(f"get3d serve: {error}") from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


main = command_main("get3d serve", __doc__.splitlines()[0], add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
