"""Metric sinks that Prometheus reads."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from monitoring.metrics import TRAINING_GAUGES


class TextfileSink:
    """Writes each record as a `.prom` file for the node exporter's textfile collector, atomically.

    Names that are not defined in `monitoring.metrics` are left out, so that the set of series stays bounded.
    """

    def __init__(self, path: Path, model: str) -> None:
        self._path = path
        self._registry = CollectorRegistry()
        self._model = model
        self._gauges = {
            item.record: Gauge(item.metric, item.help, ["model"], registry=self._registry)
            for item in TRAINING_GAUGES
        }
        path.parent.mkdir(parents=True, exist_ok=True)

    def record(self, step: int, values: dict[str, float]) -> None:
        del step
        for name, value in values.items():
            if name in self._gauges:
                self._gauges[name].labels(self._model).set(value)
        write_to_textfile(str(self._path), self._registry)
