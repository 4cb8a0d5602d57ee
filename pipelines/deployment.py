"""What `get3d doctor --url ... --prometheus ...` looks at: a deployment's servers, its monitoring, and where data lie."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from get3d_model.errors import InputError
from serving.connection import Connection

TIMEOUT_S = 10.0
MIN_FREE_SHARE = 0.1
TRAINING_JOB = "get3d-training"
NO_ANSWER = (OSError, ValueError, http.client.HTTPException)
"""Nobody there, no address, or no HTTP."""
RULES = Path(__file__).parent.parent / "monitoring" / "prometheus" / "rules.yml"


@dataclass(frozen=True)
class Finding:
    """One line about a deployment; `detail` of a bad one says what to do."""

    name: str
    ok: bool
    detail: str


@dataclass
class Replicas:
    """What each of several servers says of itself, by its address."""

    told: dict[str, dict[str, str]] = field(default_factory=dict)

    def tell(self, address: str, what: str, value: str) -> None:
        self.told.setdefault(address, {})[what] = value

    def compared(self) -> Iterator[Finding]:
        """For everything that two or more have told: whether they agree."""
        for what in dict.fromkeys(what for facts in self.told.values() for what in facts):
            values = {address: facts[what] for address, facts in self.told.items() if what in facts}
            if len(values) > 1:
                yield agreement(what, values)


def agreement(what: str, values: Mapping[str, str]) -> Finding:
    """Whether the values, by address, are all the same; `what` in the plural."""
    who: dict[str, list[str]] = {}
    for address, value in values.items():
        who.setdefault(value, []).append(address)
    if len(who) == 1:
        return Finding("replicas", True, f"{len(values)} with the same {what}: {next(iter(who))}")
    differ = "; ".join(f"{value} at {', '.join(addresses)}" for value, addresses in who.items())
    return Finding(
        "replicas", False, f"{what} differ: {differ}. Unless a roll-out is under way, run get3d deploy for all, or give all "
        "the same image",
    )  # fmt: skip


def server(connection: Connection, replicas: Replicas) -> Iterator[Finding]:
    """Of one Triton server: does it answer, does its model work, and what does it serve, which `replicas` remembers."""
    from serving.client import Get3DClient, ServiceError
    from serving.codec import SampleRequest
    from serving.status import served_versions, triton_version

    url = connection.url
    try:
        triton = triton_version(connection, TIMEOUT_S)
        replicas.tell(url, "versions of Triton", triton)
        yield Finding("server", True, f"{url}: Triton {triton}")
    except InputError as error:
        hint = "start it: get3d serve, or see docs/runbook.md#get3dservingdown"
        yield Finding("server", False, f"{_line(error)}; {hint}")
        return
    with Get3DClient(connection, timeout_s=TIMEOUT_S) as client:
        ready = client.is_ready(TIMEOUT_S)
        yield Finding(
            "model ready",
            ready,
            "its own readiness" if ready else f"{url} serves no ready model; see its log",
        )
        if not ready:
            return
        served = ", ".join(map(str, served_versions(connection, TIMEOUT_S)))
        replicas.tell(url, "served versions", served)
        yield Finding("versions", bool(served), f"{served} (the last one answers by default)")
        try:
            # Other than the probe's, so that a cached or canned answer would be seen.
            sample = client.sample(SampleRequest(1, texture_resolution=64, file_format="ply"))
        except (InputError, ServiceError) as error:
            yield Finding(
                "inference", False, f"{_line(error)}; restart the server (docs/runbook.md#get3dmodeldead)"
            )
            return
        told = sample.metadata
        replicas.tell(
            url, "versions that answer", f"{told.version} (checkpoint {told.checkpoint_sha256[:12]})"
        )
        yield Finding(
            "inference",
            told.faces > 0 and not told.empty,
            f"{told.model} at {told.kimg:g} kimg, version {told.version}: {told.faces} triangles in "
            f"{sum(told.milliseconds.values()):.0f} ms",
        )


_INFO = re.compile(r"get3d_build_info\{(.*)\} ")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def _packages(infos: list[dict[str, str]]) -> str:
    """What runs at one server, of its build infos."""
    return ", ".join(sorted({f"{info['package']} with torch {info['torch']}" for info in infos}))


def metrics_of(url: str, replicas: Replicas) -> Finding:
    """Whether a server's metrics endpoint has ours, and how full shared memory is. `replicas` remembers its packages."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
    except NO_ANSWER as error:
        return Finding("metrics", False, f"{url}: {_line(error)}; is --metrics-port open?")
    values = {
        line.split("{", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("get3d_shm_")
    }
    if len(values) < 2:
        return Finding(
            "metrics", False, f"{url} has no metrics of a served model; deploy one, or export it again"
        )
    if infos := [dict(_LABEL.findall(labels)) for labels in _INFO.findall(text)]:
        replicas.tell(url, "packages", _packages(infos))
    share = values["get3d_shm_used_bytes"] / max(1.0, values["get3d_shm_size_bytes"])
    return Finding("metrics", share < 0.8, f"{url}; its shared memory is {share:.0%} full")


def prometheus(url: str) -> Iterator[Finding]:
    """Of a Prometheus server: targets, our rules, where its alerts go, and what fires."""
    url = url.rstrip("/")
    try:
        build = _api(url, "status/buildinfo")
        targets = _api(url, "targets?state=active")["activeTargets"]
        groups = _api(url, "rules")["groups"]
        managers = _api(url, "alertmanagers")["activeAlertmanagers"]
        alerts = _api(url, "alerts")["alerts"]
        builds = _api(url, "query?query=get3d_build_info")["result"]
    except (*NO_ANSWER, KeyError, TypeError) as error:
        yield Finding("prometheus", False, f"{url} does not answer ({_line(error)}); start it: get3d monitor")
        return
    yield Finding("prometheus", True, f"{url}: version {build['version']}")
    ours = [t for t in targets if t["labels"]["job"].startswith("get3d-")]
    # A training need not run; one that died is an alert.
    resting = [t for t in ours if t["health"] == "down" and t["labels"]["job"] == TRAINING_JOB]
    down = [
        f"{t['labels']['job']} {t['labels'].get('instance')}: {t['lastError']}"
        for t in ours
        if t["health"] == "down" and t not in resting
    ]
    running = sorted({t["labels"]["job"] for t in ours if t not in resting})
    text = "; ".join(down) or ", ".join([*running, *(["no training runs"] if resting else [])])
    yield Finding(
        "targets", bool(ours) and not down, text or "none of ours; see monitoring/prometheus/prometheus.yml"
    )
    servers: dict[str, list[dict[str, str]]] = {}
    for row in builds:
        servers.setdefault(row["metric"].get("instance", "?"), []).append(row["metric"])
    if len(servers) > 1:
        yield agreement("packages", {instance: _packages(infos) for instance, infos in servers.items()})
        served = {
            instance: ", ".join(sorted(f"{i['version']} (checkpoint {i['checkpoint']})" for i in infos))
            for instance, infos in servers.items()
        }
        yield agreement("loaded versions", served)
    own = {group["name"]: group["rules"] for group in yaml.safe_load(RULES.read_text())["groups"]}
    missing = sorted(own.keys() - {group["name"] for group in groups})
    # A cluster's Prometheus has rules of others, too, and at least one alert that fires always, to show that it can.
    broken = [r["name"] for g in groups if g["name"] in own for r in g["rules"] if r.get("health") == "err"]
    yield Finding(
        "rules",
        not missing and not broken,
        f"missing: {', '.join(missing)}; load monitoring/prometheus/rules.yml" if missing
        else f"fail: {', '.join(broken)}" if broken else f"{len(own)} groups",
    )  # fmt: skip
    yield Finding(
        "alertmanager",
        bool(managers),
        ", ".join(m["url"] for m in managers) or "none: alerts reach nobody; see docs/monitoring.md",
    )
    names = {rule.get("alert") for rules in own.values() for rule in rules}
    firing = sorted({a["labels"]["alertname"] for a in alerts if a["state"] == "firing"} & names)
    yield Finding(
        "alerts",
        not firing,
        f"firing: {', '.join(firing)}; see docs/runbook.md" if firing else "none of ours fires",
    )


def disk(folders: list[Path]) -> Iterator[Finding]:
    """Free space where data, checkpoints and models lie."""
    for folder in folders:
        if not folder.is_dir():
            yield Finding("disk", False, f"{folder}: no such folder")
            continue
        usage = shutil.disk_usage(folder)
        enough = usage.free >= MIN_FREE_SHARE * usage.total and os.access(folder, os.W_OK)
        yield Finding(
            "disk", enough, f"{folder}: {usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free"
            + ("" if os.access(folder, os.W_OK) else ", and not writable"),
        )  # fmt: skip


def gpu() -> Finding:
    """Memory and driver of this machine's GPUs; a machine without is no fault."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return Finding("gpu", True, "torch is not installed here")
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", True, f"none here (torch {version('torch')})")
    told = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        told.append(f"{torch.cuda.get_device_name(index)}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    return Finding("gpu", True, "; ".join(told))


def remotes(repository: Path) -> Iterator[Finding]:
    """Whether every DVC remote of a repository can be reached with the credentials that are here."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(repository))
    except DvcException as error:
        yield Finding("remotes", False, f"{repository}: no DVC repository ({_line(error)})")
        return
    with repo:
        names = list(repo.config["remote"])
        if not names:
            yield Finding(
                "remotes", False, f"{repository} has no DVC remote; run: dvc remote add --default NAME URL"
            )
        for name in names:
            try:
                odb = repo.cloud.get_remote_odb(name)
                where = odb.fs.unstrip_protocol(odb.path)
                # An empty remote has no folder yet; its parent must answer.
                there = odb.fs.exists(odb.path) or odb.fs.exists(
                    odb.fs.parent(odb.fs.parent(odb.fs.parent(odb.path)))
                )
            except Exception as error:  # every driver has errors of its own
                yield Finding("remote " + name, False, f"cannot be reached: {_line(error)}")
                continue
            yield Finding("remote " + name, there, where if there else f"{where}: not there")


def _api(url: str, path: str) -> Any:
    with urllib.request.urlopen(f"{url}/api/v1/{path}", timeout=TIMEOUT_S) as answer:
        return json.load(answer)["data"]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
