"""Pods of a training job: how a cluster profile shapes them, and what is to be told of them while they run."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from components.cluster_profile import ClusterProfile
from components.train.endpoint import PORT, PORT_NAME, port_of
from components.train.job_spec import SCRATCH
from get3d_model.errors import InputError

_INDEX_KEYS = ("torchx.pytorch.org/replica-id", "batch.kubernetes.io/job-completion-index")
_CONNECT_S = 10.0
TIMEOUT = (_CONNECT_S, 60.0)
"""Of every request: connecting, and waiting for the answer. Without it a lost connection is waited for for ever."""
# A stream that is silent for longer is opened again: a dead connection looks like a quiet one.
_SILENCE_S = 120.0
_POLL_S = 1.0
_SHM_VOLUME = "dshm"
# The image is read-only: what compiles or caches at run time does so here.
_WRITABLE = {"HOME": "/tmp/home", "NUMBA_CACHE_DIR": "/tmp/numba"}
_TMP_SIZE = "8Gi"


def api_client() -> client.ApiClient:
    """Of the cluster this runs in, or else of kubectl's current context. Raises InputError."""
    configuration = client.Configuration()
    try:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            config.load_kube_config(
                # The library reads the variable when it is imported.
                config_file=os.environ.get("KUBECONFIG"),
                client_configuration=configuration,
            )
    except (config.ConfigException, OSError) as error:
        raise InputError(
            f"no Kubernetes cluster to talk to ({error}); run inside one, or set KUBECONFIG"
        ) from None
    # `state` decides how long an API server may be away.
    configuration.retries = 1
    return client.ApiClient(configuration)


def shape_pod(pod: dict[str, Any], profile: ClusterProfile) -> dict[str, Any]:
    """The pod template (a manifest) that TorchX made, as the profile says; changed in place."""
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    resources = {"cpu": profile.cpu_text, "memory": profile.memory}
    if profile.gpu.count:
        resources[profile.gpu.resource] = str(profile.gpu.count)
    container["resources"] = {"requests": dict(resources), "limits": resources}
    container["imagePullPolicy"] = profile.image_pull_policy
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    given = {item["name"] for item in container["env"]}
    container["env"] += [
        {"name": name, "value": value} for name, value in _WRITABLE.items() if name not in given
    ]
    container["env"] += [
        {"name": item.env, "valueFrom": {"secretKeyRef": {"name": item.secret, "key": item.key}}}
        for item in profile.secret_env
    ]
    if number := port_of(profile.env.get(PORT, "0"), f"env.{PORT} of the cluster profile"):
        # Prometheus finds the ports that pods declare.
        container["ports"] = [*container.get("ports", []), {"name": PORT_NAME, "containerPort": number}]
    volumes = [
        {"name": _SHM_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": profile.shm_size}},
        {"name": "scratch", "emptyDir": {"sizeLimit": profile.scratch_size}},
        {"name": "tmp", "emptyDir": {"sizeLimit": _TMP_SIZE}},
    ]
    mounts = [
        {"name": _SHM_VOLUME, "mountPath": "/dev/shm"},
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    claims = list(dict.fromkeys(mount.claim for mount in profile.pvcs))
    volumes += [
        {"name": f"pvc-{i}", "persistentVolumeClaim": {"claimName": claim}} for i, claim in enumerate(claims)
    ]
    for mount in profile.pvcs:
        entry: dict[str, Any] = {"name": f"pvc-{claims.index(mount.claim)}", "mountPath": mount.path}
        if mount.read_only:
            entry["readOnly"] = True
        if mount.sub_path:
            entry["subPath"] = mount.sub_path
        mounts.append(entry)
    container["volumeMounts"], spec["volumes"] = mounts, volumes
    security: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if profile.run_as_user is not None:
        security |= {"runAsUser": profile.run_as_user, "runAsNonRoot": profile.run_as_user != 0}
    if profile.fs_group is not None:
        security["fsGroup"] = profile.fs_group
    spec["securityContext"] = security
    spec["terminationGracePeriodSeconds"] = profile.termination_grace_s
    # Training asks nothing of the API server.
    spec["automountServiceAccountToken"] = False
    spec["enableServiceLinks"] = False
    chosen = {
        "nodeSelector": profile.whole_node_selector,
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
        "serviceAccountName": profile.service_account,
        "priorityClassName": profile.priority_class,
        "tolerations": [_toleration(item) for item in profile.tolerations],
    }
    for key, value in chosen.items():
        spec.pop(key, None)
        if value:
            spec[key] = value
    metadata = pod.setdefault("metadata", {})
    metadata["labels"] = {**profile.labels, **metadata.get("labels", {})}
    metadata["annotations"] = {**profile.annotations, **metadata.get("annotations", {})}
    return pod


def _toleration(item: Any) -> dict[str, Any]:
    names = {"key": item.key, "value": item.value, "effect": item.effect}
    result = {"operator": item.operator, **{name: value for name, value in names.items() if value}}
    if item.toleration_seconds is not None:
        result["tolerationSeconds"] = item.toleration_seconds
    return result


def node_of(pod: client.V1Pod) -> int:
    """Which node of the job a pod is."""
    marks = {**(pod.metadata.annotations or {}), **(pod.metadata.labels or {})}
    return next((int(marks[key]) for key in _INDEX_KEYS if key in marks), 0)


def newest_by_node(pods: list[client.V1Pod]) -> dict[int, client.V1Pod]:
    """The pod that counts for every node; those it replaces are left out."""
    oldest_first = sorted(
        pods, key=lambda pod: pod.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC)
    )
    return {node_of(pod): pod for pod in oldest_first}


def waiting_reason(pods: list[client.V1Pod]) -> str:
    """Why pods do not run yet, each reason once; '' where none is given."""
    reasons: list[str] = []
    for pod in pods:
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                reasons.append(
                    f"{condition.reason}: {condition.message}" if condition.message else condition.reason
                )
        for status in pod.status.container_statuses or []:
            waiting = status.state.waiting if status.state else None
            if waiting is not None and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
                reasons.append(f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason)
    return "; ".join(dict.fromkeys(reason.strip().replace("\n", " ") for reason in reasons if reason))


def end_reason(pods: list[client.V1Pod]) -> str:
    """Why pods ended, beyond a plain exit code; '' for nothing special."""
    reasons = []
    for pod in pods:
        if pod.status.reason:
            reasons.append(f"pod {pod.metadata.name}: {pod.status.reason} {pod.status.message or ''}")
        for status in pod.status.container_statuses or []:
            ended = status.state.terminated if status.state else None
            if ended is not None and ended.exit_code and ended.reason not in (None, "Error"):
                reasons.append(f"pod {pod.metadata.name}: {ended.reason}")
    return "; ".join(dict.fromkeys(reason.strip() for reason in reasons))


def follow_log(
    api: client.CoreV1Api, namespace: str, find: Callable[[], client.V1Pod | None], over: threading.Event
) -> Iterator[str]:
    """Lines of the pod that `find` gives, as they come; then of the one that replaced it; until `over` and all is read."""
    finished: set[str] = set()
    stamp, uid = "", ""
    while True:
        # Asked before reading: what was written before `over` is read.
        last = over.is_set()
        pod = _patiently(find)
        if pod is None or pod.metadata.uid in finished or pod.status.phase == "Pending":
            if last:
                return
            over.wait(_POLL_S)
            continue
        if pod.metadata.uid != uid:
            stamp, uid = "", pod.metadata.uid
        ended = pod.status.phase in ("Succeeded", "Failed")
        before = stamp
        try:
            for line in _stream(api, namespace, pod, before):
                at, _, text = line.partition(" ")
                if at > before:
                    stamp = at
                    yield text
        except (ApiException, HTTPError, OSError) as error:
            # The pod is gone, or the connection: the next round finds out.
            ended = ended or (isinstance(error, ApiException) and error.status == 404)
            over.wait(_POLL_S)
        if ended:
            finished.add(uid)
        elif last:
            return


def _patiently(find: Callable[[], client.V1Pod | None]) -> client.V1Pod | None:
    try:
        return find()
    except (ApiException, HTTPError, OSError):
        return None


def _stream(api: client.CoreV1Api, namespace: str, pod: client.V1Pod, stamp: str) -> Iterator[str]:
    """Lines with their time stamps from about `stamp` on, until the container or the connection ends."""
    arguments: dict[str, Any] = {}
    if stamp:
        # The API takes whole seconds; what comes twice is dropped by its stamp.
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp).replace("Z", "+00:00"))
        arguments["since_seconds"] = max(1, int((datetime.now(UTC) - at).total_seconds()) + 5)
    response = api.read_namespaced_pod_log(
        pod.metadata.name,
        namespace,
        container=pod.spec.containers[0].name,
        follow=True,
        timestamps=True,
        _preload_content=False,
        _request_timeout=(_CONNECT_S, _SILENCE_S),
        **arguments,
    )
    rest = b""
    try:
        for chunk in response.stream(65536, decode_content=False):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
        if rest:
            yield rest.decode(errors="replace")
    finally:
        response.close()
        response.release_conn()


def wait_gone(count: Callable[[], int], seconds: float) -> None:
    """Waits until `count` is 0, or the seconds are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if not count():
                return
        except (ApiException, HTTPError, OSError):
            pass
        time.sleep(min(_POLL_S, 0.5))
