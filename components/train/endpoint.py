"""Where a training serves its metrics to Prometheus: by options, or as the environment of its job says. No torch."""

from __future__ import annotations

import os

from get3d_model.errors import InputError

PORT = "GET3D_METRICS_PORT"
HOST = "GET3D_METRICS_HOST"
PORT_NAME = "metrics"
"""Of the port in the pods, by which the PodMonitor of k8s/components/monitoring finds it."""


def endpoint(port: int | None, host: str | None) -> tuple[int | None, str]:
    """Port (None: no exporter) and address; the environment says what is None here. Raises InputError."""
    text = os.environ.get(PORT, "").strip()
    if port is None and text:
        port = port_of(text, PORT)
    return port, host or os.environ.get(HOST, "").strip() or "127.0.0.1"


def port_of(text: str, name: str) -> int:
    """The number of a TCP port; 0 is any free one. Raises InputError, with the name of what says so."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise InputError(f"{name} must be a port from 0 to 65535, not {text!r}")
    return int(text)
