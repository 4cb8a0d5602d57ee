"""`get3d pipeline submit`: a version of the pipeline goes to Kubeflow, a run of it is started and followed."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
import yaml

from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.version import package_version
from pipelines.compile import compile_pipeline, options_from
from pipelines.parameters import arguments_from

TOKEN_VARIABLE = "KFP_TOKEN"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
# How long the server may be away before following ends; the run goes on without us.
PATIENCE_S = 300.0


def submit(args: argparse.Namespace) -> None:
    """Uploads, starts, follows. Raises InputError for a bad parameter, a server that refuses, and a run that failed."""
    parameters = arguments_from(args)
    _check_waiting(args)
    _check_schedule(args)
    with tempfile.TemporaryDirectory() as folder:
        package, account = args.package, args.service_account
        if package is None:
            options = options_from(args)
            package = compile_pipeline(Path(folder) / "pipeline.yaml", options)
            account = account or (options.profile.service_account if options.profile is not None else None)
        elif args.no_cache:
            raise InputError(
                "--no-cache is compiled into the pipeline; leave out --package, or compile with --no-cache"
            )
        _check_parameters(package, parameters)
        client = _client(args)
        pipeline_id = _pipeline(client, args.pipeline_name, args.namespace)
        version_id = _version(client, package, pipeline_id)
    with _asked("making the experiment"), contextlib.redirect_stdout(io.StringIO()):
        experiment = client.create_experiment(args.experiment, namespace=args.namespace)
    common = {
        "experiment_id": experiment.experiment_id, "pipeline_id": pipeline_id, "version_id": version_id,
        "params": parameters, "pipeline_root": args.pipeline_root, "service_account": account,
    }  # fmt: skip
    if args.schedule or args.every_s:
        _recur(client, args, common)
        return
    name = args.run_id or f"{args.pipeline_name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    with _asked("starting the run"), contextlib.redirect_stdout(io.StringIO()):
        run = client.run_pipeline(job_name=name, **common)
    print(f"run {run.run_id}: {args.host.rstrip('/')}/#/runs/details/{run.run_id}", flush=True)
    if args.no_follow:
        return
    try:
        follow(client, run.run_id, args.poll_s, args.timeout_s, lambda: _client(args))
    except KeyboardInterrupt:
        print(f"run {run.run_id} goes on; terminate it in the Kubeflow UI if that is not wanted", flush=True)
        raise


def follow(
    client: kfp.Client, run_id: str, poll_s: float, timeout_s: float, reconnect: Callable[[], kfp.Client]
) -> None:
    """Prints what happens in a run until it ends. Raises InputError when it did not succeed, or takes too long.

    timeout_s: 0 for no limit. reconnect: makes a client with a fresh token.
    """
    begin = answered = time.monotonic()
    shown: dict[str, str] = {}
    while True:
        try:
            run = client.get_run(run_id)
            answered = time.monotonic()
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
            status = getattr(error, "status", None) or 503
            if status == 401:
                client = reconnect()
            elif status < 500 and status != 429:
                raise InputError(f"run {run_id} cannot be followed: {_said(error)}") from None
            if time.monotonic() - answered > PATIENCE_S:
                raise InputError(
                    f"the server has not answered for {PATIENCE_S:.0f} s ({_said(error)}); run {run_id} may go on"
                ) from None
            time.sleep(poll_s)
            continue
        for name, state in _changes(run, shown):
            print(f"{time.monotonic() - begin:7.0f} s  {name:<24} {state}", flush=True)
        if run.state in ENDED:
            if run.state == "SUCCEEDED":
                print(f"run {run_id} succeeded in {time.monotonic() - begin:.0f} s", flush=True)
                return
            raise InputError(f"run {run_id} ended as {run.state}: {_reasons(run)}")
        if timeout_s and time.monotonic() - begin > timeout_s:
            raise InputError(f"run {run_id} is still {run.state} after {timeout_s:g} s; it goes on")
        time.sleep(poll_s)


def _changes(run: Any, shown: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Steps whose state is another than when we looked last; `shown` is brought up to date."""
    tasks = list((run.run_details and run.run_details.task_details) or [])
    for task in sorted(tasks, key=lambda item: (str(item.start_time or ""), item.display_name or "")):
        state = task.state or ""
        if state and shown.get(task.task_id) != state:
            shown[task.task_id] = state
            yield task.display_name or task.task_id, state


def _reasons(run: Any) -> str:
    """The messages of the steps that failed, or the run's own."""
    tasks = list((run.run_details and run.run_details.task_details) or [])
    failed = [task for task in tasks if task.state == "FAILED"]
    told = [
        f"{task.display_name}" + (f" ({task.error.message})" if task.error and task.error.message else "")
        for task in failed
    ]
    whole = run.error.message if run.error and run.error.message else ""
    return (
        "; ".join([*told, *([whole] if whole else [])])
        or "the server gives no reason; look at its log in the UI"
    )


def _client(args: argparse.Namespace) -> kfp.Client:
    token = os.environ.get(TOKEN_VARIABLE)
    if args.token_file:
        try:
            token = args.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--token-file {args.token_file}: cannot be read ({error})") from None
    if token and not re.fullmatch(r"[!-~]+", token):
        source = f"--token-file {args.token_file}" if args.token_file else TOKEN_VARIABLE
        raise InputError(f"{source}: is no token, which is one word of ASCII letters, digits and signs")
    return make_client(args.host, token, args.namespace)


class _Client(kfp.Client):
    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        """Asks once. kfp's asks five times, also where the token is wrong, logs a traceback each time and keeps the
        reason to itself."""
        return self._healthz_api.healthz_service_get_healthz()


def make_client(host: str, token: str | None = None, namespace: str | None = None) -> kfp.Client:
    """Raises InputError when the server cannot be reached."""
    if not host.startswith(("http://", "https://")):
        raise InputError(f"--host must begin with http:// or https://, not {host!r}")
    # It tells of every attempt to connect; the error at the end says it all.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    with _asked("connecting"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Client(host=host, existing_token=token, namespace=namespace or "kubeflow")


def _pipeline(client: kfp.Client, name: str, namespace: str | None) -> str:
    """The id of the pipeline, which is made where there is none."""
    wanted = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    with _asked("looking for the pipeline"):
        # Not `get_pipeline_id`, which does not see the pipelines of a namespace.
        found = client.list_pipelines(namespace=namespace, filter=json.dumps({"predicates": [wanted]}))
    if found.pipelines:
        return found.pipelines[0].pipeline_id
    body = kfp_server_api.V2beta1Pipeline(
        display_name=name,
        namespace=namespace,
        description="From a folder of textured meshes to a served GET3D model.",
    )
    with _asked("making the pipeline"):
        # Empty, because an upload would name its first version like the pipeline.
        return client.pipelines.pipeline_service_create_pipeline(pipeline=body).pipeline_id


def _version(client: kfp.Client, package: Path, pipeline_id: str) -> str:
    """The id of the version with this content, which is uploaded where there is none."""
    name = f"{package_version()}-{sha256_file(package)[:12]}"
    with _asked("listing versions"):
        token = ""
        while True:
            page = client.list_pipeline_versions(pipeline_id, page_token=token, page_size=100)
            for version in page.pipeline_versions or []:
                if version.display_name == name:
                    print(f"version {name} is there already", flush=True)
                    return version.pipeline_version_id
            token = page.next_page_token or ""
            if not token:
                break
    with _asked("uploading the pipeline"), contextlib.redirect_stdout(io.StringIO()):
        uploaded = client.upload_pipeline_version(str(package), name, pipeline_id=pipeline_id)
    print(f"version {name} uploaded", flush=True)
    return uploaded.pipeline_version_id


def _check_waiting(args: argparse.Namespace) -> None:
    for name, low in (("poll_s", 0.001), ("timeout_s", 0.0)):
        value = getattr(args, name)
        if not (math.isfinite(value) and value >= low):
            raise InputError(f"--{name.replace('_', '-')} must be at least {low:g} seconds, not {value:g}")


def _check_schedule(args: argparse.Namespace) -> None:
    if args.schedule and args.every_s:
        raise InputError("give either --schedule or --every-s")
    if args.schedule and len(args.schedule.split()) != 6:
        raise InputError(
            f"--schedule takes six fields (seconds first), such as '0 0 2 * * 1', not {args.schedule!r}"
        )
    if args.every_s is not None and args.every_s < 1:
        raise InputError(f"--every-s must be at least 1, not {args.every_s}")
    if args.max_concurrency < 1:
        raise InputError(f"--max-concurrency must be at least 1, not {args.max_concurrency}")
    if args.run_id and (args.schedule or args.every_s):
        raise InputError("a recurring run needs a new id every time; leave out --run-id")


def _recur(client: kfp.Client, args: argparse.Namespace, common: dict[str, Any]) -> None:
    with _asked("making the recurring run"):
        made = client.create_recurring_run(
            job_name=args.pipeline_name, cron_expression=args.schedule, interval_second=args.every_s,
            max_concurrency=args.max_concurrency, no_catchup=True, **common,
        )  # fmt: skip
    url = f"{args.host.rstrip('/')}/#/recurringrun/details/{made.recurring_run_id}"
    print(f"recurring run {made.recurring_run_id}: {url}", flush=True)


def _check_parameters(package: Path, given: dict[str, Any]) -> None:
    """Raises InputError for a package that is none, and for parameters that it does not have."""
    try:
        spec = next(yaml.safe_load_all(Path(package).read_text()))
        known = set(spec["root"].get("inputDefinitions", {}).get("parameters", {}))
    except OSError as error:
        raise InputError(f"--package {package}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError, StopIteration, KeyError, TypeError, AttributeError):
        raise InputError(
            f"--package {package}: is no compiled pipeline; make one with get3d pipeline compile"
        ) from None
    unknown = sorted(set(given) - known)
    if unknown:
        raise InputError(f"--package {package}: has no parameter {', '.join(unknown)}; compile it again")


@contextlib.contextmanager
def _asked(doing: str) -> Iterator[None]:
    """Turns what the server or the network says into one line."""
    try:
        yield
    except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, TimeoutError) as error:
        raise InputError(f"{doing} failed: {_said(error)}") from None


def _said(error: Exception) -> str:
    if isinstance(error, kfp_server_api.ApiException):
        try:
            message = yaml.safe_load(error.body)["message"]
        except (TypeError, KeyError, AttributeError, yaml.YAMLError):
            message = error.reason
        hint = "; check --token-file" if error.status in (401, 403) else ""
        return f"{error.status} {message}".replace("\n", " ") + hint
    reason = getattr(error, "reason", None) or error
    return f"the server cannot be reached ({reason}); check --host".replace("\n", " ")
