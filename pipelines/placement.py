"""Where the steps of the pipeline run on Kubernetes: the cluster profile, applied to a task."""

from __future__ import annotations

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components.cluster_profile import ClusterProfile
from monitoring.logs import RUN_ID
from serving import environment

SHM_PATH = "/dev/shm"
TRITON_SECRET = {"control-token": environment.CONTROL_TOKEN}
TRITON_SECRET_OPTIONAL = {"token": environment.TOKEN, "ca.crt": environment.TLS_CA}
"""Keys of the cluster profile's `triton_secret`: the latter for servers that ask for a token, and that encrypt."""


@dataclass(frozen=True)
class Needs:
    """What a step needs. cpu: processors. memory: Kubernetes quantity. gpus: whole ones.

    node: a whole training node's resources, as the profile has them, instead of these. light: needs no torch.
    """

    cpu: str = "1"
    memory: str = "2Gi"
    gpus: int = 0
    node: bool = False
    light: bool = False


def place(task: dsl.PipelineTask, profile: ClusterProfile | None, needs: Needs) -> dsl.PipelineTask:
    """Gives a task the profile's image, volumes, credentials and resources; without a profile nothing changes.

    Node selector and tolerations are those of GPU nodes, so only tasks with GPUs get them.
    """
    if profile is None:
        return task
    task.set_container_image((needs.light and profile.light_image) or profile.image)
    kubernetes.set_image_pull_policy(task, profile.image_pull_policy)
    if profile.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.image_pull_secrets))
    for mount in profile.pvcs:
        kubernetes.mount_pvc(task, mount.claim, mount.path, mount.sub_path)
    # The run's id in every record that a step logs: Kubeflow labels a run's pods with it.
    kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
    for name, value in profile.env.items():
        task.set_env_variable(name, value)
    for secret in profile.secret_env:
        kubernetes.use_secret_as_env(task, secret.secret, {secret.key: secret.env})
    for key, value in profile.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in profile.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    if profile.run_as_user is not None:
        kubernetes.set_security_context(task, run_as_user=profile.run_as_user)
    _resources(task, profile, needs)
    return task


def give_triton_secret(task: dsl.PipelineTask, profile: ClusterProfile | None) -> dsl.PipelineTask:
    """Lets a task load models into Triton, and sample from them."""
    if profile is not None and profile.triton_secret is not None:
        kubernetes.use_secret_as_env(task, profile.triton_secret, TRITON_SECRET)
        kubernetes.use_secret_as_env(task, profile.triton_secret, TRITON_SECRET_OPTIONAL, optional=True)
    return task


def _resources(task: dsl.PipelineTask, profile: ClusterProfile, needs: Needs) -> None:
    cpu, memory = (profile.cpu_text, profile.memory) if needs.node else (needs.cpu, needs.memory)
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    # Batches travel between a step's processes through it; the default of containers is 64 MiB.
    kubernetes.empty_dir_mount(
        task, "shm", SHM_PATH, medium="Memory", size_limit=profile.shm_size if needs.node else "1Gi"
    )
    gpus = profile.gpu.count if needs.node else min(needs.gpus, profile.gpu.count)
    if gpus:
        task.set_accelerator_type(profile.gpu.resource).set_accelerator_limit(gpus)
        for key, value in profile.whole_node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for item in profile.tolerations:
            kubernetes.add_toleration(
                task, key=item.key or None, operator=item.operator, value=item.value or None,
                effect=item.effect or None, toleration_seconds=item.toleration_seconds,
            )  # fmt: skip
