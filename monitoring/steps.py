"""What a step that ends tells Prometheus: to a Pushgateway, into textfiles, or nobody.

    GET3D_PUSHGATEWAY=http://host:9091    address of a Pushgateway
    GET3D_METRICS_DIR=FOLDER              folder of the node exporter's textfile collector

Without either nothing is done. That a report does not arrive is one line on standard error, and never the step's fault.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from monitoring.metrics import OUTCOMES, STEPS

PUSHGATEWAY = "GET3D_PUSHGATEWAY"
FOLDER = "GET3D_METRICS_DIR"
JOB = "get3d-pipeline"
HELD = "get3d_pipeline_gate_held_runs"
TIMEOUT_S = 5.0
INTERRUPTED_FROM = 128
"""Exit codes from here on are 128 and a signal's number."""


def wanted() -> bool:
    """Whether anybody is to be told."""
    return bool(os.environ.get(PUSHGATEWAY) or os.environ.get(FOLDER))


def known(step: str) -> str | None:
    """The step's name as a label; None for commands that are no steps."""
    name = step.replace(" ", "_")
    return name if name in STEPS else None


@contextlib.contextmanager
def timed(step: str) -> Iterator[None]:
    """Reports the duration and the outcome of the block."""
    name = known(step)
    if name is None or not wanted():
        yield
        return
    started, outcome = time.monotonic(), "failed"
    try:
        yield
        outcome = "succeeded"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except SystemExit as error:
        code = error.code
        if not code:
            outcome = "succeeded"
        elif isinstance(code, int) and code > INTERRUPTED_FROM:
            outcome = "interrupted"
        raise
    finally:
        seconds = time.monotonic() - started
        _send(f"step_{name}", {"step": name}, lambda: _step(name, seconds, outcome))


def report_rows(step: str, accepted: int, rejected: int) -> None:
    """How many meshes a step kept, and set aside."""
    values = {"get3d_pipeline_accepted_rows": accepted, "get3d_pipeline_rejected_rows": rejected}
    _send(f"rows_{step}", {"step": step}, lambda: _plain(values, step=step))


def report_run(outcome: str) -> None:
    """outcome: one of OUTCOMES."""
    _send("run", {}, lambda: _run(outcome))


def report_gate(promoted: bool) -> None:
    """Counts the runs in a row that were held: one more than what stands where the report goes."""

    def build() -> object:
        held = 0.0 if promoted else _last(HELD) + 1
        return _plain({"get3d_pipeline_gate_promoted": float(promoted), HELD: held})

    _send("gate", {}, build)


def _step(name: str, seconds: float, outcome: str) -> object:
    from monitoring.sinks import MetricSet

    prefix = "get3d_pipeline_step_"
    metrics = MetricSet([f"{prefix}duration_seconds", f"{prefix}timestamp_seconds", f"{prefix}outcome"])
    metrics.set(f"{prefix}duration_seconds", seconds, step=name)
    metrics.set(f"{prefix}timestamp_seconds", time.time(), step=name)
    metrics.choose(f"{prefix}outcome", "outcome", outcome, OUTCOMES, step=name)
    return metrics.registry


def _run(outcome: str) -> object:
    from monitoring.sinks import MetricSet

    metrics = MetricSet(["get3d_pipeline_run_outcome", "get3d_pipeline_run_timestamp_seconds"])
    metrics.choose("get3d_pipeline_run_outcome", "outcome", outcome, OUTCOMES)
    metrics.set("get3d_pipeline_run_timestamp_seconds", time.time())
    return metrics.registry


def _plain(values: dict[str, float], **labels: str) -> object:
    from monitoring.sinks import MetricSet

    metrics = MetricSet(list(values))
    for name, value in values.items():
        metrics.set(name, value, **labels)
    return metrics.registry


def _file(name: str) -> Path:
    return Path(os.environ[FOLDER]) / f"get3d_{name}.prom"


def _last(name: str) -> float:
    """The metric's value at the Pushgateway or in the folder; 0 where there is none yet."""
    from prometheus_client.parser import text_string_to_metric_families

    if os.environ.get(PUSHGATEWAY):
        url = f"{_address().rstrip('/')}/metrics"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
    else:
        path = _file("gate")
        text = path.read_text() if path.is_file() else ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels.get("job", JOB) == JOB:
                return sample.value
    return 0.0


def _address() -> str:
    address = os.environ[PUSHGATEWAY]
    return address if "://" in address else f"http://{address}"


def _send(name: str, grouping: dict[str, str], build: Callable[[], object]) -> None:
    if not wanted():
        return
    try:
        # Here and not above: where nobody is told, no step waits for these.
        from prometheus_client import write_to_textfile

        from monitoring.sinks import push

        registry = build()
        if os.environ.get(PUSHGATEWAY):
            push(_address(), registry, JOB, grouping)
        if os.environ.get(FOLDER):
            _file(name).parent.mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(_file(name)), registry)
    except Exception as error:  # whatever the gateway answers with, the step has done its work
        where = os.environ.get(PUSHGATEWAY) or os.environ.get(FOLDER)
        why = " ".join(str(error).split()) or type(error).__name__
        print(f"metrics were not reported to {where}: {why}", file=sys.stderr, flush=True)
