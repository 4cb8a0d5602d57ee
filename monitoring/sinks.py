"""Where metrics go: an HTTP endpoint for long jobs, a textfile or the Pushgateway for steps that end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    pushadd_to_gateway,
    start_http_server,
    write_to_textfile,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from get3d_model.errors import InputError
from monitoring.metrics import METRICS, RECORDED, TRAINING_STATES, Metric, bounded

LAST_SCRAPE_S = 30.0
"""An exporter that was scraped stays so long at most, so that the end of the job is seen."""


class MetricSet:
    """The metrics with these names, as prometheus_client has them; counters and gauges only."""

    def __init__(self, names: tuple[str, ...] | list[str], constant: Mapping[str, str] | None = None) -> None:
        """constant: labels that every series of this process has the same."""
        self.registry = CollectorRegistry()
        self._constant = dict(constant or {})
        self._families = {name: self._family(METRICS[name]) for name in names}

    def set(self, name: str, value: float, **labels: str) -> None:
        """Raises KeyError for a metric or a label's value that is not defined."""
        self._child(name, labels).set(value)

    def add(self, name: str, amount: float, **labels: str) -> None:
        """A counter never falls: what is negative or not a number counts as nothing."""
        self._child(name, labels).inc(amount if amount > 0 else 0.0)

    def choose(self, name: str, label: str, chosen: str, values: tuple[str, ...], **labels: str) -> None:
        """1 for the chosen value of the label, 0 for the others."""
        for value in values:
            self.set(name, float(value == chosen), **labels, **{label: value})

    def _family(self, metric: Metric) -> Counter | Gauge:
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.name, metric.help, metric.labels, registry=self.registry)

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge:
        metric = METRICS[name]
        given = {**{k: v for k, v in self._constant.items() if k in metric.labels}, **labels}
        if not metric.labels:
            return self._families[name]
        return self._families[name].labels(*(bounded(label, given[label]) for label in metric.labels))


@dataclass(frozen=True)
class TrainingFacts:
    """What does not change while a training runs. gpu_memory_bytes: by device, asked when somebody reads."""

    model: str
    total_kimg: float
    log_interval_kimg: float
    checkpoint_interval_kimg: float
    batch_size: int = 0
    world_size: int = 1
    first_step: int = 0
    checkpoint_time: Callable[[], float | None] = lambda: None
    gpu_memory_bytes: Callable[[], dict[str, float]] = dict


class TrainingMetrics(Collector):
    """The trainer's records as the metrics of `monitoring.metrics.TRAINING`; a `MetricSink`.

    Names that are not defined there are left out, so that the set of series stays bounded.
    """

    def __init__(self, facts: TrainingFacts) -> None:
        self.facts = facts
        own = ("get3d_training_gpu_memory_bytes", "get3d_training_checkpoint_timestamp_seconds")
        names = [name for name in METRICS if name.startswith("get3d_training_") and name not in own]
        self._set = MetricSet(names, {"model": facts.model})
        self.registry = self._set.registry
        self._started = time.time()
        self._step = facts.first_step
        for name, value in (
            ("total_kimg", facts.total_kimg),
            ("log_interval_kimg", facts.log_interval_kimg),
            ("checkpoint_interval_kimg", facts.checkpoint_interval_kimg),
            ("world_size", facts.world_size),
            ("start_timestamp_seconds", self._started),
            ("last_record_timestamp_seconds", self._started),
        ):
            self._set.set(f"get3d_training_{name}", value)
        for name in names:
            if METRICS[name].kind == "counter":
                self._set.add(name, 0.0)
        self.state("running")
        self.registry.register(self)

    def record(self, step: int, values: dict[str, float]) -> None:
        images = (step - self._step) * self.facts.batch_size
        self._step = step
        for name, value in values.items():
            metric = RECORDED.get(name)
            if metric is not None and metric.kind == "counter":
                self._set.add(metric.name, value)
            elif metric is not None:
                self._set.set(metric.name, value)
        self._set.set("get3d_training_step", step)
        self._set.add("get3d_training_images_total", images)
        empty = values.get("shapes/empty_fraction", 0.0)
        self._set.add("get3d_training_empty_shapes_total", round(empty * images) if empty == empty else 0)
        self._set.set("get3d_training_last_record_timestamp_seconds", time.time())

    def state(self, state: str) -> None:
        """state: one of TRAINING_STATES."""
        self._set.choose("get3d_training_state", "state", state, TRAINING_STATES)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is read only when somebody asks."""
        written = self.facts.checkpoint_time()
        age = METRICS["get3d_training_checkpoint_timestamp_seconds"]
        family = GaugeMetricFamily(age.name, age.help, labels=age.labels)
        family.add_metric([self.facts.model], self._started if written is None else written)
        yield family
        memory = METRICS["get3d_training_gpu_memory_bytes"]
        family = GaugeMetricFamily(memory.name, memory.help, labels=memory.labels)
        for device, value in self.facts.gpu_memory_bytes().items():
            family.add_metric([self.facts.model, device], value)
        yield family


class TextfileSink:
    """Writes each record as a `.prom` file for the node exporter's textfile collector, atomically.

    Raises InputError for another ending, and OSError where it cannot write at first. Later that is one line, and no
    training's fault.
    """

    def __init__(self, path: Path, metrics: TrainingMetrics) -> None:
        if path.suffix != ".prom":
            raise InputError(f"{path}: the node exporter reads no other files than *.prom; name one")
        self._path, self._metrics = path, metrics
        self._failing = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def record(self, step: int, values: dict[str, float]) -> None:
        """After the metrics' own `record`."""
        del step, values
        self.write()

    def write(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                print(
                    f"metrics are not written to {self._path}: {error.strerror}; the training goes on",
                    flush=True,
                )
            self._failing = True
        else:
            self._failing = False

    def _write(self) -> None:
        write_to_textfile(str(self._path), self._metrics.registry)


@dataclass
class Exporter:
    """An HTTP server for Prometheus with one registry. Counts its scrapes, so that the last state is not missed."""

    registry: CollectorRegistry
    port: int
    host: str = "127.0.0.1"
    _server: WSGIServer | None = field(default=None, repr=False)
    _scraped: threading.Event = field(default_factory=threading.Event, repr=False)
    _ever: bool = field(default=False, repr=False)

    def start(self) -> Exporter:
        """Raises InputError where the port is taken. `port` 0 becomes a free one."""
        try:
            self._server, _ = start_http_server(self.port, self.host, _Watched(self.registry, self._seen))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"cannot listen on {self.host}:{self.port} ({error}); free it or choose another port"
            ) from None
        self.port = self._server.server_port
        return self

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/metrics"

    def stop(self, wait_s: float = LAST_SCRAPE_S) -> None:
        """If anybody scraped this, waits for one more scrape, `wait_s` at most."""
        if self._server is None:
            return
        if self._ever and wait_s > 0:
            self._scraped.clear()
            if self._scraped.wait(wait_s):
                time.sleep(0.2)  # the answer is on its way
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def _seen(self) -> None:
        self._ever = True
        self._scraped.set()


class _Watched:
    """A registry that says when it is read, and adds what the process itself uses."""

    def __init__(self, registry: CollectorRegistry, seen: Callable[[], None]) -> None:
        self._registry, self._seen = registry, seen
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[object]:
        self._seen()
        yield from self._registry.collect()
        # Not in the registry itself: in a textfile these would be taken for the node exporter's own.
        yield from self._process.collect()

    def restricted_registry(self, names: list[str]) -> object:
        self._seen()
        return self._registry.restricted_registry(names)


def push(address: str, registry: CollectorRegistry, job: str, grouping: Mapping[str, str]) -> None:
    """To the Pushgateway at `address`; the metrics of the same names and grouping are replaced. Raises OSError."""
    pushadd_to_gateway(address, job, registry, dict(grouping), timeout=5.0)


@contextlib.contextmanager
def exported(metrics: TrainingMetrics, port: int | None, host: str = "127.0.0.1") -> Iterator[str | None]:
    """The address of an exporter for as long as the block lasts; None without a port."""
    if port is None:
        yield None
        return
    exporter = Exporter(metrics.registry, port, host).start()
    try:
        yield exporter.url
    finally:
        exporter.stop()
