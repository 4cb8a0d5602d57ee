"""The whole monitoring on this machine: real Prometheus, Alertmanager, Pushgateway, training, Triton and probe.

Every panel of every dashboard has data under load; a model process that is killed, and a training that is fed NaN, are
alerts at the webhook.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.artifacts import one_line_errors
from components.export.main import export
from components.finish.main import finish
from components.train.endpoint import PORT
from get3d_model.errors import InputError
from monitoring import dashboards, grafana_model, steps
from pipelines import cli
from pipelines.monitor import PROGRAMS, Monitor, Ports, Targets
from serving.client import Get3DClient, ServiceError
from serving.codec import SampleRequest
from serving.server import STUB_PROCESS, TritonServer
from tests.components.remote_servers import free_port
from tests.get3d_model.training.tiny import start, tiny_config, train_command, write_params
from tests.monitoring.queries import filled
from tests.serving.tiny import write_checkpoint

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not all(any(map(shutil.which, names)) for names in PROGRAMS.values()),
        reason="needs Debian's prometheus, prometheus-alertmanager and prometheus-pushgateway",
    ),
]
INTERVAL_S = 1.0
RATE_INTERVAL = "15s"
# What no machine without an NVIDIA GPU has.
GPU_ONLY = ("nv_gpu_", "get3d_training_gpu_memory_bytes")
# Feeds NaN instead of images into `get3d train`, seconds after it began: who was never scraped waits for nobody.
POISONED_TRAINING = """
import sys
from components.train.main import main
from get3d_model.training.trainer import Trainer

take, steps = Trainer._take, [0]

def poisoned(self, pending):
    images, *rest = take(self, pending)
    steps[0] += 1
    return (images * float("nan") if steps[0] >= 60 else images, *rest)

Trainer._take = poisoned
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Stack:
    monitor: Monitor
    server: TritonServer
    data: Path
    folder: Path

    def query(self, expr: str) -> list[dict[str, object]]:
        """What Prometheus answers now."""
        url = f"{self.monitor.url('prometheus')}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            body = json.load(answer)
        assert body["status"] == "success"
        return body["data"]["result"]

    def numbers(self, expr: str) -> list[float]:
        return [float(row["value"][1]) for row in self.query(expr)]

    def arrived(self, alert: str) -> list[dict[str, object]]:
        return [
            a for a in self.monitor.alerts if a["labels"]["alertname"] == alert and a["status"] == "firing"
        ]


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def traffic(server: TritonServer) -> Iterator[None]:
    """Meshes of ever new seeds, and now and then a request that is wrong."""
    stopping = threading.Event()

    def go() -> None:
        with Get3DClient(server.grpc_url, timeout_s=5.0) as client:
            seed = 1
            while not stopping.wait(0.05):
                try:
                    client.sample(SampleRequest(seed, file_format="ply"))
                    if seed % 20 == 0:
                        client.sample(SampleRequest(seed, class_name="none such"))
                except (InputError, ServiceError):
                    pass  # the wrong ones, and all after the model was killed
                seed += 1

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def wait_for(what: str, condition: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {timeout_s:g} s"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "checkpoint").mkdir()
    export(write_checkpoint(folder / "checkpoint"), folder / "repository", onnx=False, drift_samples=20)
    training, probe = free_port(), free_port()
    config = tiny_config(
        1_000_000, checkpoint_interval_kimg=0.08, log_interval_kimg=0.016, validation_images=2, r1_interval=4
    )
    params = write_params(folder / "params.yaml", config)
    with ExitStack() as stack:
        server = stack.enter_context(TritonServer(folder / "repository"))
        targets = Targets(f"127.0.0.1:{server.ports.metrics}", f"127.0.0.1:{training}", f"127.0.0.1:{probe}")
        monitor = stack.enter_context(
            Monitor(folder / "monitor", targets, Ports(0, 0, 0, 0), interval_s=INTERVAL_S, for_s=2.0)
        )
        train = train_command(params, tiny_data, folder / "out")
        # As in the pods of a job, whose profile says so in their environment.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", PORT: str(training)}
        with open(folder / "training.log", "w") as log:
            stack.enter_context(
                ended(subprocess.Popen(train, stdout=log, stderr=log, text=True, env=environment))
            )
        command = [sys.executable, "-m", "pipelines.cli", "probe", "--url", server.grpc_url]
        with open(folder / "probe.log", "w") as log:
            stack.enter_context(
                ended(
                    subprocess.Popen(
                        [*command, "--every", "1", "--timeout", "10", "--metrics-port", str(probe)],
                        stdout=log,
                        stderr=log,
                        text=True,
                    )
                )
            )
        yield Stack(monitor, server, tiny_data, folder)


def run_pipeline_steps(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the steps of a run would report, by the code that they report with."""
    monkeypatch.setenv(steps.PUSHGATEWAY, stack.monitor.url("pushgateway"))
    for step in ("validate", "render", "data merge", "train"):
        with one_line_errors(step):
            pass
    steps.report_rows("render", 9, 0)
    steps.report_gate(True)
    finish(stack.folder, "run", "SUCCEEDED")


def test_every_panel_has_data_under_load(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    run_pipeline_steps(stack, monkeypatch)
    queries = [
        (f"{board.title}: {panel.title}", filled(query.expr, RATE_INTERVAL))
        for board in dashboards.DASHBOARDS
        for panel in grafana_model.panels(board)
        for query in panel.queries
    ]
    assert len(queries) > 60
    if not stack.query("nv_gpu_utilization"):
        print(f"without a GPU: {[where for where, expr in queries if any(g in expr for g in GPU_ONLY)]}")
        queries = [(where, expr) for where, expr in queries if not any(g in expr for g in GPU_ONLY)]
    missing: dict[str, str] = {}

    def nothing_missing() -> bool:
        missing.clear()
        for where, expr in queries:
            values = stack.numbers(expr)
            if not values or all(math.isnan(value) for value in values):
                missing[where] = expr
        return not missing

    with traffic(stack.server):
        try:
            wait_for("all panels", nothing_missing, 240)
        except AssertionError:
            pytest.fail(f"panels without data: {json.dumps(missing, indent=1)}")
    assert stack.numbers("get3d_training_world_size") == [1]
    assert sum(stack.numbers('get3d_errors_total{reason="invalid"}')) > 0
    assert sum(stack.numbers("get3d_errors_total")) == sum(
        stack.numbers('get3d_errors_total{reason="invalid"}')
    )
    up = {row["metric"]["job"]: float(row["value"][1]) for row in stack.query("up")}
    assert up == dict.fromkeys(("get3d-serving", "get3d-training", "get3d-probe", "get3d-pushgateway"), 1.0)
    for alert in (
        "Get3dModelDead",
        "Get3dTrainingDiverged",
        "Get3dServingErrors",
        "Get3dServingDown",
        "Get3dPipelineRunFailed",
    ):
        assert not stack.arrived(alert), alert


def test_series_stay_within_their_bound(stack: Stack) -> None:
    from monitoring.metrics import METRICS, max_series, series_names

    for metric in METRICS.values():
        for name in series_names(metric):
            counts = stack.numbers(f"count by (instance, job) ({name})")
            assert all(count <= max_series(metric) for count in counts), (metric.name, counts)


def test_doctor_sees_that_all_is_well(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """But for alerts that a training of random weights for seconds may give rise to."""
    arguments = ["--url", stack.server.grpc_url, "--metrics", stack.server.metrics_url]
    arguments += ["--prometheus", stack.monitor.url("prometheus"), "--folder", str(stack.folder)]
    told: dict[str, str] = {}
    well = (
        "server",
        "model ready",
        "versions",
        "inference",
        "metrics",
        "prometheus",
        "targets",
        "rules",
        "alertmanager",
    )

    def all_well() -> bool:
        cli.main(["doctor", *arguments])
        lines = capsys.readouterr().out.splitlines()
        told.update({line[4:24].strip(): f"{line[:3].strip()} {line[25:]}" for line in lines})
        return all(told[name].startswith("ok ") for name in well)

    # Prometheus takes a while to find its targets and to scrape them for the first time.
    with suppress(AssertionError):
        wait_for("all to be well", all_well, 60)
    assert {name: told[name] for name in well if not told[name].startswith("ok ")} == {}
    assert "Triton 2." in told["server"] and told["inference"].startswith("ok tiny at 0 kimg, version 1: ")
    assert told["targets"] == "ok get3d-probe, get3d-pushgateway, get3d-serving, get3d-training"
    assert {"alerts", "disk", "gpu"} <= told.keys()


def test_doctor_sees_replicas_that_differ(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second server with another checkpoint; the first one by two addresses is two that agree."""
    port = stack.server.ports.grpc
    cli.main(["doctor", "--url", f"127.0.0.1:{port}", "--url", f"localhost:{port}"])
    said = [line for line in capsys.readouterr().out.splitlines() if "replicas" in line]
    assert len(said) == 3 and all(line.startswith("ok") for line in said), said
    export(write_checkpoint(tmp_path, seed=1), tmp_path / "repository", onnx=False)
    with TritonServer(tmp_path / "repository") as other:
        words = [
            word for s in (stack.server, other) for word in ("--url", s.grpc_url, "--metrics", s.metrics_url)
        ]
        assert cli.main(["doctor", *words]) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if "replicas" in line]
    (bad,) = [line for line in told if line.startswith("BAD")]
    assert "versions that answer differ: 1 (checkpoint " in bad and other.grpc_url in bad
    assert len(told) == 4 and any("the same packages" in line for line in told)


def test_a_training_that_is_fed_nan_is_an_alert(stack: Stack) -> None:
    port = free_port()
    params = write_params(stack.folder / "nan.yaml", tiny_config(5000))
    arguments = [
        "--config", str(params), "--data", str(stack.data), "--out", str(stack.folder / "nan"), "--metrics-port", str(port),
    ]  # fmt: skip
    stack.monitor.set_targets({"training": f"{stack.monitor.targets.training},127.0.0.1:{port}"})
    wait_for("the new target", lambda: len(stack.query('up{job="get3d-training"}')) == 2, 60)
    with ended(start([sys.executable, "-c", POISONED_TRAINING, *arguments])) as process:
        wait_for("the alert", lambda: stack.arrived("Get3dTrainingDiverged"), 120)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "became NaN or infinite" in errors
    (alert,) = stack.arrived("Get3dTrainingDiverged")[:1]
    assert alert["labels"]["instance"] == f"127.0.0.1:{port}" and alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["runbook_url"].endswith("#get3dtrainingdiverged")


def test_a_run_that_failed_and_a_gate_that_holds_are_alerts(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(steps.PUSHGATEWAY, stack.monitor.url("pushgateway"))
    for _ in range(3):
        steps.report_gate(False)
    finish(stack.folder, "failed-run", "FAILED")
    wait_for("the alert of the gate", lambda: stack.arrived("Get3dGateHeldThreeTimes"), 60)
    wait_for("the alert of the run", lambda: stack.arrived("Get3dPipelineRunFailed"), 60)


def test_a_model_process_that_is_killed_is_an_alert(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """The last test: nothing brings the process back, and Triton goes on calling the model ready."""
    assert not stack.arrived("Get3dModelDead")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, after = stat.read_text().rsplit(")", 1)
        except OSError:
            continue
        if int(after.split()[1]) == stack.server.pid and before.split("(", 1)[1].startswith(STUB_PROCESS):
            os.kill(int(stat.parent.name), signal.SIGKILL)
    with traffic(stack.server):
        wait_for("the alert of the probe", lambda: stack.arrived("Get3dModelDead"), 120)
        (alert,) = stack.arrived("Get3dModelDead")[:1]
        assert (
            alert["labels"]["model"] == "get3d"
            and "real inferences" in alert["annotations"]["summary"].lower()
        )
        wait_for("the alert of the errors", lambda: stack.arrived("Get3dServingErrors"), 120)
    assert stack.numbers('up{job="get3d-serving"}') == [1], "the server itself is there"
    assert (
        cli.main(["doctor", "--url", stack.server.grpc_url, "--prometheus", stack.monitor.url("prometheus")])
        == 2
    )
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BAD")]
    assert any(line.startswith("BAD inference") for line in said)
    assert any(line.startswith("BAD alerts") and "Get3dModelDead" in line for line in said)
