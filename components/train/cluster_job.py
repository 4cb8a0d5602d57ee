"""What training jobs on Kubernetes have in common; `volcano.py` and `indexed_job.py` are the two kinds."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml
from kubernetes import client
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from components.cluster_profile import ClusterProfile
from components.train.follow import JobState, Phase
from components.train.job_spec import RUN_LABEL, SPEC_ANNOTATION, JobSpec, job_name, spec_hash
from components.train.pods import (
    TIMEOUT,
    api_client,
    end_reason,
    follow_log,
    newest_by_node,
    wait_gone,
    waiting_reason,
)
from get3d_model.errors import InputError

T = TypeVar("T")
# How long the API server may be away before the launcher gives up. The job itself goes on without it.
PATIENCE_S = 300.0
TTL_AFTER_END_S = 86_400
"""Ended jobs stay this long, to be looked at."""


class ClusterJob(ABC):
    """See `follow.Job`. `manifests` are what `submit` creates, the job first."""

    manifests: list[dict[str, Any]]
    pod_selector: str
    """The label whose value is the job's name on its pods."""

    def __init__(self, spec: JobSpec, suffix: str | None = None) -> None:
        """suffix: the end of the job's name; random by default."""
        assert spec.profile is not None
        self.spec, self.profile = spec, spec.profile
        profile: ClusterProfile = spec.profile
        self.name, self.nodes = job_name(spec.name, suffix), spec.nodes
        self._away_since: float | None = None
        self._client: client.ApiClient | None = None
        self.manifests = self.build()
        job = self.manifests[0]
        job["metadata"].setdefault("labels", {}).update({**profile.labels, RUN_LABEL: spec.run_id})
        job["metadata"].setdefault("annotations", {}).update(profile.annotations)
        for manifest in self.manifests:
            manifest["metadata"]["namespace"] = profile.namespace
        job["metadata"]["annotations"][SPEC_ANNOTATION] = spec_hash({"all": self.manifests}, self.name)

    @abstractmethod
    def build(self) -> list[dict[str, Any]]:
        """The manifests, the job first."""

    @abstractmethod
    def _create(self) -> None: ...

    @abstractmethod
    def _list(self, selector: str) -> list[dict[str, Any]]:
        """The jobs of this kind with these labels, as manifests."""

    @abstractmethod
    def _read(self) -> dict[str, Any]:
        """This job, as a manifest. Raises ApiException with 404 when it is gone."""

    @abstractmethod
    def _delete(self) -> None: ...

    @abstractmethod
    def _end(self, job: dict[str, Any]) -> tuple[Phase, str] | None:
        """SUCCEEDED or FAILED and why; None for a job that goes on."""

    def describe(self) -> str:
        return yaml.safe_dump_all(self.manifests)

    @property
    def api(self) -> client.ApiClient:
        if self._client is None:
            self._client = api_client()
        return self._client

    @property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    def submit(self) -> str:
        """Creates the job, or finds the one of a launcher that died; returns a line that says which.

        Raises InputError when another job writes into the same folder, and when the cluster refuses.
        """
        namespace, spec_mark = (
            self.profile.namespace,
            self.manifests[0]["metadata"]["annotations"][SPEC_ANNOTATION],
        )
        existing = self._asked("listing jobs", lambda: self._list(f"{RUN_LABEL}={self.spec.run_id}"))
        for job in existing:
            metadata = job["metadata"]
            if self._end(job) is not None or metadata.get("deletionTimestamp"):
                continue
            if metadata.get("annotations", {}).get(SPEC_ANNOTATION) == spec_mark:
                self.name = metadata["name"]
                return f"job {self.name} is already there, from a launcher that ended before it; following it"
            raise InputError(
                f"job {metadata['name']} in namespace {namespace} is training into {self.spec.out} with other "
                "settings; wait for it, delete it, or give another --out"
            )
        self._asked("submitting", self._create)
        return f"job {self.name} submitted to namespace {namespace}"

    def _asked(self, doing: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except ApiException as error:
            raise InputError(
                f"the cluster refuses {doing} in namespace {self.profile.namespace}: {_said(error)}"
            ) from error
        except (HTTPError, OSError) as error:
            raise InputError(f"the cluster cannot be reached ({error}); check KUBECONFIG") from error

    def pods(self) -> list[client.V1Pod]:
        return self.core.list_namespaced_pod(
            self.profile.namespace,
            label_selector=f"{self.pod_selector}={self.name}",
            _request_timeout=TIMEOUT,
        ).items

    def state(self) -> JobState:
        try:
            job = self._read()
            pods = list(newest_by_node(self.pods()).values())
            ended = self._end(job)
            if ended is not None:
                phase, reason = ended
                details = end_reason(pods) if phase is Phase.FAILED else ""
                return JobState(phase, "; ".join(filter(None, [reason, details])))
            running = sum(pod.status.phase in ("Running", "Succeeded") for pod in pods)
            self._away_since = None
            if running >= self.nodes:
                return JobState(Phase.RUNNING, nodes=running)
            return JobState(Phase.PENDING, waiting_reason(pods) or self._events(), running)
        except ApiException as error:
            if error.status == 404:
                return JobState(Phase.FAILED, "the job was deleted")
            if error.status < 500 and error.status != 429:
                return JobState(Phase.FAILED, f"the cluster does not show the job: {_said(error)}")
            return self._away(error)
        except (HTTPError, OSError) as error:
            return self._away(error)

    def _away(self, error: Exception) -> JobState:
        now = time.monotonic()
        said = _said(error) if isinstance(error, ApiException) else str(error)
        self._away_since = self._away_since or now
        if now - self._away_since > PATIENCE_S:
            raise InputError(
                f"the API server has not answered for {PATIENCE_S:.0f} s ({said}); job {self.name} may still run: run "
                "the same command again to follow it"
            ) from error
        return JobState(Phase.RUNNING, "the API server does not answer", self.nodes)

    def _events(self) -> str:
        """The newest warning about the job itself, where there are no pods yet that could say what is missing."""
        events = self.core.list_namespaced_event(
            self.profile.namespace,
            field_selector=f"involvedObject.name={self.name},type=Warning",
            _request_timeout=TIMEOUT,
        ).items
        return f"{events[-1].reason}: {events[-1].message}".strip().replace("\n", " ") if events else ""

    def log(self, node: int, over: threading.Event) -> Iterator[str]:
        return follow_log(
            self.core, self.profile.namespace, lambda: newest_by_node(self.pods()).get(node), over
        )

    def cancel(self) -> None:
        try:
            self._delete()
        except ApiException as error:
            if error.status != 404:
                raise InputError(
                    f"job {self.name} cannot be cancelled ({_said(error)}); delete it with kubectl"
                ) from error
        except (HTTPError, OSError) as error:
            raise InputError(
                f"job {self.name} cannot be cancelled ({error}); delete it with kubectl"
            ) from error
        wait_gone(lambda: len(self.pods()), self.profile.termination_grace_s + 10.0)

    def cancel_all(self) -> list[str]:
        """Cancels every job that trains into the same folder, whoever submitted it; returns their names.

        Raises InputError when the cluster refuses or cannot be reached.
        """
        names = []
        for job in self._asked("listing jobs", lambda: self._list(f"{RUN_LABEL}={self.spec.run_id}")):
            if self._end(job) is None and not job["metadata"].get("deletionTimestamp"):
                self.name = job["metadata"]["name"]
                self.cancel()
                names.append(self.name)
        return names

    def end_rest(self) -> None:  # noqa: B027
        """The cluster ends what is left of a failed job, and keeps it for a look."""

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _said(error: ApiException) -> str:
    """The message of the API server, in one line."""
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    return f"{error.status} {message}".replace("\n", " ")
