"""A training job for clusters without Volcano: an Indexed Job, whose pods meet at its first one by a headless Service.

Nothing starts the pods together: each takes its place as it becomes free, and those that have one wait.
"""

from __future__ import annotations

from typing import Any

from kubernetes import client
from torchx.schedulers.kubernetes_scheduler import role_to_pod
from torchx.specs import macros

from components.train.cluster_job import TTL_AFTER_END_S, ClusterJob
from components.train.follow import Phase
from components.train.job_spec import PORT
from components.train.pods import TIMEOUT, shape_pod

_HOST = "GET3D_FIRST_POD"
ROLE_LABEL = "torchx.pytorch.org/role-name"


class IndexedJob(ClusterJob):
    pod_selector = "batch.kubernetes.io/job-name"

    def build(self) -> list[dict[str, Any]]:
        name, profile, nodes = self.name, self.profile, self.spec.nodes
        # One pod restarts its processes in place. Of several each ends with its processes and is replaced, so that
        # nobody waits for a rendezvous that died with another pod; up to as many rounds as there are retries.
        in_place, pod_failures = (
            (self.spec.max_retries, 0) if nodes == 1 else (0, self.spec.max_retries * nodes)
        )
        app = self.spec.application(in_place, params_inside=True)
        role = macros.Values(img_root="", app_id=name, replica_id="0", rank0_env=_HOST).apply(app.roles[0])
        # The first pod may not find its own name in DNS yet.
        first = f'[ "$JOB_COMPLETION_INDEX" = 0 ] && {_HOST}=localhost; exec '
        role.args = [role.args[0], first + role.args[1]]
        role.env |= {
            _HOST: f"{name}-0.{name}",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, profile.termination_grace_s - 10)),
        }
        pod = client.ApiClient().sanitize_for_serialization(
            role_to_pod(role.name, role, profile.service_account)
        )
        shape_pod(pod, profile)
        # The second as Volcano's pods have it: network policies select by it.
        pod["metadata"]["labels"] |= {"app.kubernetes.io/name": "get3d-train", ROLE_LABEL: role.name}
        pod["spec"]["subdomain"] = name
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {
                "completionMode": "Indexed",
                "completions": nodes,
                "parallelism": nodes,
                "backoffLimit": pod_failures,
                # Preempted and evicted pods are replaced and do not count.
                "podFailurePolicy": {
                    "rules": [
                        {
                            "action": "Ignore",
                            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                        }
                    ]
                },
                "podReplacementPolicy": "Failed",
                "ttlSecondsAfterFinished": TTL_AFTER_END_S,
                "template": pod,
            },
        }
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": {self.pod_selector: name},
                "ports": [{"name": "c10d", "port": PORT}],
            },
        }
        return [job, service]

    @property
    def _batch(self) -> client.BatchV1Api:
        return client.BatchV1Api(self.api)

    def _create(self) -> None:
        job, service = self.manifests
        namespace = self.profile.namespace
        created = self._batch.create_namespaced_job(namespace, job, _request_timeout=TIMEOUT)
        # Goes with the job.
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.name, "uid": created.metadata.uid}
        try:
            self.core.create_namespaced_service(
                namespace,
                {**service, "metadata": {**service["metadata"], "ownerReferences": [owner]}},
                _request_timeout=TIMEOUT,
            )
        except BaseException:  # Ctrl-C, too, must leave no job without its service
            self._delete()
            raise

    def _plain(self, answer: Any) -> dict[str, Any]:
        return self.api.sanitize_for_serialization(answer)

    def _list(self, selector: str) -> list[dict[str, Any]]:
        return self._plain(
            self._batch.list_namespaced_job(
                self.profile.namespace, label_selector=selector, _request_timeout=TIMEOUT
            )
        ).get("items", [])

    def _read(self) -> dict[str, Any]:
        return self._plain(
            self._batch.read_namespaced_job(self.name, self.profile.namespace, _request_timeout=TIMEOUT)
        )

    def _delete(self) -> None:
        self._batch.delete_namespaced_job(
            self.name, self.profile.namespace, propagation_policy="Background", _request_timeout=TIMEOUT
        )

    def _end(self, job: dict[str, Any]) -> tuple[Phase, str] | None:
        for condition in job.get("status", {}).get("conditions") or []:
            if condition.get("status") != "True":
                continue
            if condition["type"] == "Complete":
                return Phase.SUCCEEDED, ""
            if condition["type"] == "Failed":
                return Phase.FAILED, ": ".join(
                    filter(None, [condition.get("reason"), condition.get("message")])
                )
        return None
