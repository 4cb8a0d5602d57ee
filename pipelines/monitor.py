"""`get3d monitor`: Prometheus, Alertmanager and Pushgateway on this machine, with this project's rules.

Needs Debian's packages prometheus, prometheus-alertmanager and prometheus-pushgateway (or the programs of the same
projects on PATH). They end with this command; what they recorded stays in the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic

FILES = Path(__file__).parent.parent / "monitoring"
PROGRAMS = {
    "prometheus": ("prometheus",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
    "pushgateway": ("prometheus-pushgateway", "pushgateway"),
}
PACKAGES = "prometheus prometheus-alertmanager prometheus-pushgateway"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_TARGET = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}", re.ASCII)


@dataclass(frozen=True)
class Ports:
    """TCP ports on 127.0.0.1; 0 chooses a free one. webhook: where alerts arrive here."""

    prometheus: int = 9090
    alertmanager: int = 9093
    pushgateway: int = 9091
    webhook: int = 9094


@dataclass(frozen=True)
class Targets:
    """What is scraped, as HOST:PORT, several separated by commas; see monitoring/prometheus/prometheus.yml."""

    serving: str = "127.0.0.1:8002"
    training: str = "127.0.0.1:9464"
    probe: str = "127.0.0.1:9465"


@dataclass
class Monitor:
    """A context manager around the three servers. `alerts`: those that have arrived at the webhook.

    folder: for their data. interval_s: between two scrapes and evaluations; None: as configured.
    for_s: instead of the rules' own `for`, for tests and demonstrations. webhook: where alerts go; None: here.
    Raises InputError for missing programs, ports and folders in use, and targets that are no HOST:PORT.
    """

    folder: Path
    targets: Targets = Targets()
    ports: Ports = Ports()
    interval_s: float | None = None
    webhook: str | None = None
    for_s: float | None = None
    alerts: list[dict[str, object]] = field(default_factory=list)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def __enter__(self) -> Monitor:
        programs = {name: _program(name) for name in PROGRAMS}
        self.ports = _free_ports(self.ports)
        self.folder = Path(self.folder).absolute()
        try:
            self._stack.enter_context(_locked(self.folder))
            if self.webhook is None:
                self._stack.enter_context(_receiver(self.ports.webhook, self.alerts))
            self._write_configuration()
            for name, words in self._commands().items():
                self._start(name, [programs[name], *words])
            for name in PROGRAMS:
                self._wait(name)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def url(self, name: str) -> str:
        """name: prometheus, alertmanager, pushgateway or webhook."""
        return f"http://127.0.0.1:{getattr(self.ports, name)}"

    def check(self) -> None:
        """Raises InputError when one of the servers has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise InputError(f"{name} has ended (exit code {process.returncode}); {self._tail(name)}")

    def _write_configuration(self) -> None:
        """Copies of the project's files with these ports and targets; the originals stay as they are."""
        source = FILES / "prometheus"
        configuration = yaml.safe_load((source / "prometheus.yml").read_text())
        rules = yaml.safe_load((source / "rules.yml").read_text())
        alertmanager = yaml.safe_load((source / "alertmanager.yml").read_text())
        if self.interval_s is not None:
            interval = f"{round(self.interval_s * 1000)}ms"
            configuration["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
            alertmanager["route"] |= {"group_wait": interval, "group_interval": interval}
        if self.for_s is not None:
            for rule in (rule for group in rules["groups"] for rule in group["rules"]):
                if "for" in rule:
                    rule["for"] = f"{round(self.for_s)}s"
        url = self.webhook or f"{self.url('webhook')}/alerts"
        alertmanager["receivers"][0]["webhook_configs"][0]["url"] = url
        for name, document in (
            ("prometheus.yml", configuration),
            ("rules.yml", rules),
            ("alertmanager.yml", alertmanager),
        ):
            write_bytes_atomic(self.folder / name, yaml.safe_dump(document, sort_keys=False).encode())
        own = {name: f"127.0.0.1:{getattr(self.ports, name)}" for name in ("pushgateway", "alertmanager")}
        self.set_targets({**vars(self.targets), **own})

    def set_targets(self, targets: Mapping[str, str]) -> None:
        """Replaces what is scraped, by the names of `Targets`; Prometheus reads it by itself."""
        for name, text in targets.items():
            listed = [target.strip() for target in text.split(",") if target.strip()]
            for target in listed:
                # Prometheus would only say so in its log.
                if not _TARGET.fullmatch(target):
                    raise InputError(f"--{name} takes HOST:PORT, several with commas, not {target!r}")
            path = self.folder / "targets" / f"{name}.yml"
            path.parent.mkdir(exist_ok=True)
            write_bytes_atomic(path, yaml.safe_dump([{"targets": listed}]).encode())

    def _commands(self) -> dict[str, list[str]]:
        def address(name: str) -> str:
            return f"--web.listen-address=127.0.0.1:{getattr(self.ports, name)}"

        return {
            "pushgateway": [
                address("pushgateway"),
                f"--persistence.file={self.folder / 'pushgateway.data'}",
            ],
            "alertmanager": [
                address("alertmanager"),
                f"--config.file={self.folder / 'alertmanager.yml'}",
                f"--storage.path={self.folder / 'alertmanager'}",
                # One alone needs no cluster.
                "--cluster.listen-address=",
            ],
            "prometheus": [
                address("prometheus"),
                # Relative, as the names in it are then: a folder's name may hold what Prometheus takes for a pattern.
                "--config.file=prometheus.yml",
                f"--storage.tsdb.path={self.folder / 'prometheus'}",
            ],
        }

    def _start(self, name: str, command: list[str]) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_die_with_parent, cwd=self.folder,
            )  # fmt: skip
        self._processes[name] = process
        self._stack.callback(_stop, process)

    def _wait(self, name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url(name)}/-/ready", timeout=5):
                return
            if time.monotonic() > deadline:
                raise InputError(f"{name} was not ready after {START_TIMEOUT_S:g} s; {self._tail(name)}")
            time.sleep(0.1)

    def _tail(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return f"{self.folder / name}.log ends with: {lines[-1] if lines else 'nothing'}"


def _program(name: str) -> str:
    for candidate in PROGRAMS[name]:
        if (path := shutil.which(candidate)) is not None:
            return str(Path(path).absolute())
    raise InputError(
        f"{PROGRAMS[name][0]} is not installed; run: apt-get install --no-install-recommends {PACKAGES}"
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps others out of it: they would change what is scraped, and write the same data.

    Raises InputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"{folder} is no folder, and a file is in its place; choose another --folder"
        ) from None
    with open(folder / "lock", "wb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems have no locks; there the user has to take care.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise InputError(
                    f"another get3d monitor uses {folder}; stop it, or choose another --folder"
                ) from None
        yield


def _free_ports(wanted: Ports) -> Ports:
    """Fills in free ones. Raises InputError for one in use, or wanted twice."""
    chosen, sockets = {}, []
    try:
        for item in fields(Ports):
            listener = socket.socket()
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = getattr(wanted, item.name)
            try:
                listener.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                raise InputError(
                    f"cannot listen on 127.0.0.1:{port} ({error}); stop what is there, or choose another "
                    f"--{item.name}-port"
                ) from None
            if (number := listener.getsockname()[1]) in chosen.values():
                raise InputError(f"--{item.name}-port: {port} is another one's; each needs a port of its own")
            chosen[item.name] = number
    finally:
        for listener in sockets:
            listener.close()
    return Ports(**chosen)


@contextlib.contextmanager
def _receiver(port: int, alerts: list[dict[str, object]]) -> Iterator[None]:
    """Takes Alertmanager's webhook: prints every alert, and keeps it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for alert in body.get("alerts", []):
                alerts.append(alert)
                note = alert["annotations"]
                print(
                    f"{alert['status'].upper()} {alert['labels']['alertname']}: {note.get('summary', '')}"
                    f" ({note.get('runbook_url', '')})",
                    flush=True,
                )
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Alerts are printed, requests are not."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    process.kill()
    process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--folder", type=Path, default=Path("outputs/monitoring"), help="for configuration, data and logs")
    for name, value in vars(Targets()).items():
        add(f"--{name}", default=value, help=f"HOST:PORT of the {name} metrics, several with commas")
    for name, value in vars(Ports()).items():
        add(f"--{name}-port", type=int, default=value, help="0: any free one")
    add("--webhook", help="URL that alerts are sent to; unless given, they are printed here")


def run(args: argparse.Namespace) -> None:
    """Runs until Ctrl-C or SIGTERM. Raises InputError."""
    ports = Ports(**{item.name: getattr(args, f"{item.name}_port") for item in fields(Ports)})
    targets = Targets(args.serving, args.training, args.probe)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Monitor(args.folder, targets, ports, webhook=args.webhook) as monitor:
            print(
                f"Prometheus    {monitor.url('prometheus')}   (alerts: /alerts, targets: /targets)\n"
                f"Alertmanager  {monitor.url('alertmanager')}\n"
                f"Pushgateway   {monitor.url('pushgateway')}   "
                f"(steps: export GET3D_PUSHGATEWAY={monitor.url('pushgateway')})\n"
                f"scraping      serving {targets.serving}, training {targets.training}, probe {targets.probe}\n"
                f"start them:   get3d serve ...; get3d train --metrics-port 9464 ...; get3d probe --every 15 --url ...\n"
                f"Grafana:      {FILES / 'grafana'} has its provisioning (docs/monitoring.md)\n"
                "alerts are printed here; Ctrl-C stops all",
                flush=True,
            )
            while True:
                time.sleep(1.0)
                monitor.check()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


main = command_main("get3d monitor", __doc__.splitlines()[0], add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
