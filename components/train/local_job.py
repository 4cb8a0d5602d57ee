"""A training job on this machine: TorchX's `local_cwd` scheduler, which starts one torchrun per node."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import CWDImageProvider, LocalScheduler

from components.train.follow import JobState, Phase
from components.train.job_spec import PORT, JobSpec
from components.train.output_lock import LOCK, lock_path
from components.train.rank import LAUNCHER, process_identity

_REPOSITORY = Path(__file__).parent.parent.parent
_POLL_S = 0.1
_GRACE_S = 60


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Scheduler(LocalScheduler):
    """TorchX's, which also tells which processes it started."""

    def __init__(self, session_name: str) -> None:
        super().__init__(session_name, CWDImageProvider)
        self.processes: list[subprocess.Popen[bytes]] = []

    def run_local_job(self, *args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        process = super().run_local_job(*args, **kwargs)
        self.processes.append(process)
        return process


class LocalJob:
    """See `follow.Job`."""

    def __init__(self, spec: JobSpec) -> None:
        application = spec.application(
            spec.max_retries, params_inside=False, port=PORT if spec.nodes == 1 else _free_port()
        )
        (self._role,) = application.roles
        self.nodes = spec.nodes
        # Between SIGTERM and SIGKILL.
        self._grace_s = grace_s = spec.profile.termination_grace_s if spec.profile else _GRACE_S
        self._logs = Path(tempfile.mkdtemp(prefix="get3d-train-job-"))
        path = [str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._role.env |= {
            # torchrun is beside the Python that runs this; TorchX puts PATH before the inherited one.
            "PATH": str(Path(sys.executable).parent),
            "PYTHONPATH": os.pathsep.join(path),
            LAUNCHER: process_identity(os.getpid()) or "",
            LOCK: str(lock_path(Path(spec.out))),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(grace_s),
        }
        # Made here, because it takes over the signals of this process; `follow` takes them back.
        self._scheduler = _Scheduler("get3d")
        self._runner = Runner("get3d", {"local_cwd": lambda session_name, **_: self._scheduler})
        self._dryrun = self._runner.dryrun(application, "local_cwd", {"log_dir": str(self._logs)})
        self.name = application.name

    def describe(self) -> str:
        return f"{self._dryrun}\n"

    def submit(self) -> str:
        handle = self._runner.schedule(self._dryrun)
        self.name = handle.rpartition("/")[2]
        return f"job {self.name} started on this machine"

    def state(self) -> JobState:
        codes = [process.poll() for process in self._scheduler.processes]
        if any(codes):
            return JobState(Phase.FAILED)
        running = codes.count(None)
        return JobState(Phase.RUNNING if running else Phase.SUCCEEDED, nodes=running)

    def log(self, node: int, over: threading.Event) -> Iterator[str]:
        (found,) = self._logs.glob(f"*/{self.name}/{self._role.name}/{node}")
        process = self._scheduler.processes[node]
        with open(found / "stdout.log", "rb") as out, open(found / "stderr.log", "rb") as err:
            rest = {out: b"", err: b""}
            while True:
                ended = process.poll() is not None
                read = False
                for stream in rest:
                    content = stream.read()
                    read |= bool(content)
                    *lines, rest[stream] = (rest[stream] + content).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)
                if ended and not read:
                    yield from (text.decode(errors="replace") for text in rest.values() if text)
                    return
                if not read:
                    time.sleep(_POLL_S)

    def cancel(self) -> None:
        """torchrun passes SIGTERM on to its processes, and kills them itself when they take too long."""
        alive = [process for process in self._scheduler.processes if process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s + 10.0
        for process in alive:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def end_rest(self) -> None:
        self.cancel()

    def close(self) -> None:
        self.cancel()
        self._scheduler.close()
        shutil.rmtree(self._logs, ignore_errors=True)
