"""A training job as a Volcano Job, by TorchX's `kubernetes` scheduler: all pods start together or not at all."""

from __future__ import annotations

import json
from typing import Any

from kubernetes import client
from torchx.runner import Runner
from torchx.schedulers.kubernetes_scheduler import create_scheduler

from components.train.cluster_job import TTL_AFTER_END_S, ClusterJob
from components.train.follow import Phase
from components.train.pods import TIMEOUT, shape_pod

_JOBS: dict[str, Any] = {
    "group": "batch.volcano.sh",
    "version": "v1alpha1",
    "plural": "jobs",
    "_request_timeout": TIMEOUT,
}
_ENDED_BADLY = ("Failed", "Aborted", "Terminated")
# What would make equal jobs differ.
_RANDOM_VARIABLES = ("TORCHX_INTERNAL_SESSION_ID",)


class VolcanoJob(ClusterJob):
    pod_selector = "volcano.sh/job-name"

    def build(self) -> list[dict[str, Any]]:
        profile = self.profile
        self._dryrun = Runner("get3d", {"kubernetes": create_scheduler}).dryrun(
            self.spec.application(self.spec.max_retries, params_inside=True),
            "kubernetes",
            {
                "queue": profile.queue,
                "namespace": profile.namespace,
                "service_account": profile.service_account,
                "priority_class": profile.priority_class,
                # Would ask the API server; the manifests are tested against its definitions instead.
                "validate_spec": False,
            },
        )
        resource = client.ApiClient().sanitize_for_serialization(self._dryrun.request.resource)
        # TorchX appends a random text to the name, with no regard for its length.
        resource = json.loads(json.dumps(resource).replace(resource["metadata"]["name"], self.name))
        spec = resource["spec"]
        for task in spec["tasks"]:
            shape_pod(task["template"], profile)
            (container,) = task["template"]["spec"]["containers"]
            container["env"] = [item for item in container["env"] if item["name"] not in _RANDOM_VARIABLES]
            container["env"].append(
                {
                    "name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
                    "value": str(max(1, profile.termination_grace_s - 10)),
                }
            )
        spec["minAvailable"] = self.spec.nodes
        # torchrun restarts failed processes in place. What it cannot do is run on another machine.
        spec["maxRetry"] = self.spec.max_retries
        spec["policies"] = [
            {"event": "PodEvicted", "action": "RestartJob"},
            {"event": "PodFailed", "action": "TerminateJob"},
        ]
        spec["ttlSecondsAfterFinished"] = TTL_AFTER_END_S
        self._dryrun.request.resource = resource
        return [resource]

    @property
    def _custom(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.api)

    def _create(self) -> None:
        runner = Runner("get3d", {"kubernetes": lambda name, **_: create_scheduler(name, client=self.api)})
        runner.schedule(self._dryrun)

    def _list(self, selector: str) -> list[dict[str, Any]]:
        return self._custom.list_namespaced_custom_object(
            namespace=self.profile.namespace, label_selector=selector, **_JOBS
        )["items"]

    def _read(self) -> dict[str, Any]:
        return self._custom.get_namespaced_custom_object(
            namespace=self.profile.namespace, name=self.name, **_JOBS
        )

    def _delete(self) -> None:
        # TorchX would first read states that it does not know all of, and ask for more rights than this needs.
        self._custom.delete_namespaced_custom_object(
            namespace=self.profile.namespace, name=self.name, propagation_policy="Background", **_JOBS
        )

    def _end(self, job: dict[str, Any]) -> tuple[Phase, str] | None:
        state = job.get("status", {}).get("state", {})
        phase = state.get("phase")
        if phase == "Completed":
            return Phase.SUCCEEDED, ""
        if phase in _ENDED_BADLY:
            details = " ".join(filter(None, [state.get("reason"), state.get("message")]))
            return Phase.FAILED, f"Volcano job {phase}{f': {details}' if details else ''}"
        return None
