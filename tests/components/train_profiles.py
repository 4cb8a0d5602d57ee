"""Cluster profiles and jobs that several tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from components.cluster_profile import profile_from_dict
from components.train.job_spec import JobSpec

FULL: dict[str, Any] = {
    "namespace": "team-a",
    "image": "registry.example.com/get3d:1.4",
    "image_pull_secrets": ["registry"],
    "service_account": "trainer",
    "gpu": {"count": 4, "type": "NVIDIA-H200"},
    "cpu": 7.5,
    "memory": "64Gi",
    "shm_size": "16Gi",
    "scratch_size": "100Gi",
    "node_selector": {"pool": "gpu"},
    "tolerations": [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "spot", "value": "yes", "effect": "NoExecute", "toleration_seconds": 60},
    ],
    "pvcs": [
        {"claim": "get3d", "path": "/data"},
        {"claim": "get3d", "path": "/weights", "sub_path": "pretrained", "read_only": True},
    ],
    "env": {"NCCL_DEBUG": "WARN", "GET3D_METRICS_PORT": "9464"},
    "secret_env": [{"secret": "store", "key": "id", "env": "AWS_ACCESS_KEY_ID"}],
    "queue": "research",
    "priority_class": "batch",
    "max_retries": 2,
    "termination_grace_s": 90,
    "run_as_user": 1000,
    "fs_group": 1000,
    "labels": {"team": "a"},
    "annotations": {"owner": "someone@example.com"},
}
MINIMAL: dict[str, Any] = {
    "image": "registry.example.com/get3d:1.4",
    "pvcs": [{"claim": "get3d", "path": "/data"}],
}


def write_profile(path: Path, profile: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(profile))
    return path


def spec(folder: Path, profile: dict[str, Any], nodes: int = 2, **changes: Any) -> JobSpec:
    """A job of two pods with four processes."""
    params = folder / "params.yaml"
    params.write_text(
        "# A dollar sign begins variables for TorchX and Kubernetes.\nname: cars_$(HOME)_${app_id}\n"
    )
    whole = profile_from_dict(profile)
    return JobSpec(
        **{
            "config": params, "data": "s3://bucket/set", "out": "/data/runs/a", "nodes": nodes, "procs_per_node": 4,
            "max_retries": whole.max_retries, "cache_dir": "/scratch", "cache_gb": 90.0, "profile": whole, **changes,
        }
    )  # fmt: skip
