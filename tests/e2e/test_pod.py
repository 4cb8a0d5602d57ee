"""What the manifests say of Triton's pod, done on this machine: its command, its probes, no capabilities, a repository that
it may only read (where the tests run as root), a first deployment by the light image's packages. Without the container.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import environment
from serving.server import Ports, _resolve_ports
from tests.components.deploy_helpers import write_export
from tests.k8s.rendering import ROOT, needs_kubectl, one
from tests.k8s.test_images import run_inside
from tests.serving.test_server import children, until

pytestmark = [pytest.mark.e2e, needs_kubectl]
TOKEN = "0123456789abcdef0123456789abcdef"
OTHER_USER = 1000
ROOT_HERE = os.getuid() == 0 and shutil.which("setpriv") is not None


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="get3d-pod-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


class Pod:
    """Triton's container as the manifests describe it, with its mounts under `folder`."""

    def __init__(self, folder: Path) -> None:
        (self.container,) = one("local", "Deployment", "get3d-triton")["spec"]["template"]["spec"][
            "containers"
        ]
        self.folder = folder
        self.ports = vars(_resolve_ports(Ports(), "0.0.0.0"))
        for mount in self.container["volumeMounts"]:
            if mount["mountPath"] != "/dev/shm":
                (folder / mount["mountPath"].strip("/")).mkdir(mode=0o755)
        (folder / "secrets" / "control-token").write_text(TOKEN)
        os.chmod(folder / "tmp", 0o777)

    def start(self) -> subprocess.Popen[bytes]:
        arguments = [argument.replace("=/", f"={self.folder}/") for argument in self.container["args"]]
        arguments += [f"--{name}-port={port}" for name, port in self.ports.items()]
        variables = {item["name"]: f"{self.folder}{item['value']}" for item in self.container["env"]}
        # A root without capabilities may no longer write what belongs to others.
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"] if ROOT_HERE else []
        return subprocess.Popen(
            [*drop, sys.executable, "-m", "pipelines.cli", "serve", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(self.folder / "tmp"), **variables},
        )

    def probe(self, name: str) -> bool:
        command = self.container[name]["exec"]["command"]
        assert command[0] == "get3d"
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *command[1:], f"--url=127.0.0.1:{self.ports['grpc']}"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=self.container[name]["timeoutSeconds"],
        )  # fmt: skip
        return done.returncode == 0

    def ready(self) -> bool:
        path = self.container["readinessProbe"]["httpGet"]["path"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}{path}", timeout=3):
                return True
        except (urllib.error.URLError, OSError):
            return False


def test_from_an_empty_volume_to_a_model_that_is_replaced_and_dies(folder: Path) -> None:
    pod = Pod(folder)
    models = folder / "models"
    if ROOT_HERE:
        os.chown(models, OTHER_USER, OTHER_USER)
    process = pod.start()
    try:
        assert until(lambda: pod.probe("startupProbe"), 60), "a server without a model counts as dead"
        assert pod.probe("livenessProbe") and not pod.ready()
        # The deploy step with the packages of the light image: no torch. It writes the volume, and has the token.
        for number in (1, 2):
            exported = write_export(folder / f"exported-{number}", number)
            url = f"dns:///127.0.0.1:{pod.ports['grpc']}"
            arguments = [str(exported), str(models), url, 60, str(folder / "out")]
            program = f"from components.deploy.step import deploy; deploy(*{arguments!r})"
            done = run_inside("pipeline", [], program, {environment.CONTROL_TOKEN: TOKEN})
            assert done.returncode == 0, done.stderr
            report = json.loads((folder / "out" / "deploy.json").read_text())
            assert (report["outcome"], report["version"]) == ("deployed", number)
            assert pod.ready() and pod.probe("livenessProbe")
        (triton,) = children(process.pid)
        os.kill(children(triton)[0], signal.SIGKILL)
        # Its container ends, and Kubernetes starts it again.
        assert until(lambda: process.poll() is not None, 20) and process.returncode == 1
        process = pod.start()
        assert until(pod.ready, 60) and pod.probe("livenessProbe")
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait(60) == 0 and time.monotonic() - started < 30
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder / "tmp", ignore_errors=True)
