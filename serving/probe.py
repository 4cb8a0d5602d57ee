"""Whether a server is alive or ready: exit 0 or 1. For probes of Kubernetes; starts in a third of a second.

Liveness is a real inference, because Triton never restarts a model process that died and goes on calling its model
ready. A server that is merely busy is alive: an answer that says so counts. Readiness is the model's own, because
the server's turns false after any failed load. With --wait-for-deploy (as for `get3d serve`) a server that has nothing
to serve yet is alive, too.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable

from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from monitoring.logs import structured
from monitoring.metrics import PROBE
from serving.client import Get3DClient, ServiceError
from serving.codec import MODEL_NAME
from serving.connection import FULL_QUEUE, add_connection_arguments, check_timeout, connection_from

BUSY = "alive, and busy: its queue is full"

NEVER_LOADED = re.compile(r"unknown model: '[^']*' is not found")
"""Triton's words for a model that was never loaded. One whose loading failed "has no available versions"."""


def alive(client: Get3DClient, timeout_s: float, may_be_empty: bool = False) -> str:
    """Says how it is. Raises InputError and ServiceError for a model that does not answer.

    may_be_empty: a server that answers, but never had a model, is alive.
    """
    try:
        return f"alive: a mesh in {client.check_alive(timeout_s):.2f} s"
    except InputError as error:
        if may_be_empty and NEVER_LOADED.search(str(error)):
            return "alive, and waiting for its first deployment"
        raise
    except ServiceError as error:
        if error.status == "UNAVAILABLE" and FULL_QUEUE in str(error).lower():
            return BUSY
        raise


def watch(
    client: Get3DClient,
    model: str,
    every_s: float,
    timeout_s: float,
    port: int,
    host: str,
    going: Callable[[], bool],
    may_be_empty: bool = False,
) -> None:
    """Probes again and again while `going`, and serves the results to Prometheus. Raises InputError for a taken port.

    may_be_empty: as of `alive`.
    """
    from monitoring.sinks import Exporter, MetricSet

    metrics = MetricSet([metric.name for metric in PROBE], {"model": model})
    for name in ("get3d_probe_total", "get3d_probe_rejected_total"):
        metrics.add(name, 0.0)
    exporter = Exporter(metrics.registry, port, host).start()
    print(f"probing {client.connection.url} every {every_s:g} s; metrics: {exporter.url}", flush=True)
    answered: bool | None = None
    try:
        while going():
            started = time.monotonic()
            try:
                said, success = alive(client, timeout_s, may_be_empty), True
            except (InputError, ServiceError) as error:
                said, success = f"not alive: {error}", False
            duration = time.monotonic() - started
            metrics.set("get3d_probe_success", float(success))
            metrics.set("get3d_probe_duration_seconds", duration)
            metrics.set("get3d_probe_timestamp_seconds", time.time())
            metrics.add("get3d_probe_total", 1.0)
            metrics.add("get3d_probe_rejected_total", float(said == BUSY))
            if success != answered:
                print(said, flush=True)
            answered = success
            time.sleep(max(0.0, every_s - duration))
    finally:
        exporter.stop(wait_s=0.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_connection_arguments(parser)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--liveness", action="store_true", help="sample a small mesh (this is the default)")
    kind.add_argument("--readiness", action="store_true", help="ask whether the model is loaded")
    parser.add_argument("--model", default=MODEL_NAME, help="name of the model")
    parser.add_argument(
        "--wait-for-deploy", action="store_true", help="a server to which nothing was deployed yet is alive"
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that the answer may take")
    parser.add_argument(
        "--every", type=float, help="probe again after so many seconds, for Prometheus, until Ctrl-C"
    )
    parser.add_argument("--metrics-port", type=int, default=9465, help="of --every; 0: any free one")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="of --every; 0.0.0.0 for all")


def run(args: argparse.Namespace) -> None:
    """Prints one line; exits with 1 and a line on stderr when the answer is no."""
    connection = connection_from(args)
    check_timeout("--timeout", args.timeout)
    if args.every is not None:
        check_timeout("--every", args.every)
    if args.every is not None and args.readiness:
        raise InputError("--every goes without --readiness")
    with Get3DClient(connection, model_name=args.model) as client:
        if args.every is not None:
            with structured("probe"):
                watch(
                    client,
                    args.model,
                    args.every,
                    args.timeout,
                    args.metrics_port,
                    args.metrics_host,
                    lambda: True,
                    args.wait_for_deploy,
                )
        if args.readiness:
            if not client.is_ready(args.timeout):
                raise SystemExit(f"not ready: {args.url} serves no ready model {args.model}")
            print("ready")
            return
        try:
            print(alive(client, args.timeout, args.wait_for_deploy))
        except (InputError, ServiceError) as error:
            raise SystemExit(f"not alive: {error}") from None


main = command_main("get3d probe", __doc__.splitlines()[0], add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
