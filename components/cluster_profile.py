"""The cluster profile: one YAML file that says where and with what the steps run on Kubernetes.

    namespace: team-a
    image: registry.example.com/get3d:1.4
    image_pull_secrets: [registry]
    gpu: {count: 8, type: NVIDIA-H200}
    pvcs: [{claim: get3d, path: /data}]

Every field has a default except where one would be a guess (`image`). An unknown key is an error that names the
nearest valid one. The training job, the Kubeflow pipeline and whoever else starts pods read the same file; nothing
here imports torch, kfp or a Kubernetes client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from get3d_model.errors import InputError
from get3d_model.settings import read_yaml, settings_from_dict

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUANTITY = re.compile(r"([0-9]+(?:[.][0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T|)")
_UNIT_BYTES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _check_name(value: str, what: str) -> None:
    _check(
        len(value) <= 63 and bool(_NAME.fullmatch(value)),
        f"{what} must be a Kubernetes name (at most 63 lower-case letters, digits, '-', '.'), not {value!r}",
    )


def quantity_bytes(value: str) -> int:
    """Bytes of a Kubernetes quantity such as 64Gi. Raises ValueError."""
    match = _QUANTITY.fullmatch(value)
    if not match or not float(match[1]):
        raise ValueError(value)
    return int(float(match[1]) * _UNIT_BYTES[match[2]])


def _check_quantity(value: str, what: str) -> None:
    try:
        quantity_bytes(value)
    except ValueError:
        raise InputError(f"{what} must be an amount of memory such as 64Gi, not {value!r}") from None


@dataclass(frozen=True)
class GpuProfile:
    """The GPUs of one training pod."""

    count: int = 0
    """0: none, training on processors."""
    resource: str = "nvidia.com/gpu"
    """The resource that the cluster's device plugin offers."""
    type: str | None = None
    """Value of the node label `type_label`; pods run on such nodes only. None: on any."""
    type_label: str = "nvidia.com/gpu.product"
    """The label that NVIDIA's GPU feature discovery sets."""

    def __post_init__(self) -> None:
        _check(self.count >= 0, f"count must be 0 or more, not {self.count}")
        _check(
            bool(_LABEL_KEY.fullmatch(self.resource)),
            f"resource must be a resource name, not {self.resource!r}",
        )
        _check(
            bool(_LABEL_KEY.fullmatch(self.type_label)),
            f"type_label must be a label, not {self.type_label!r}",
        )
        _check(
            self.type is None or (0 < len(self.type) <= 63 and bool(_LABEL_VALUE.fullmatch(self.type))),
            f"type must be the value of a label, not {self.type!r}",
        )


@dataclass(frozen=True)
class Toleration:
    """Lets pods run on nodes with this taint."""

    key: str = ""
    """Empty with `operator: Exists`: any taint."""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    """Empty: every effect."""
    toleration_seconds: int | None = None
    """How long a pod stays after a NoExecute taint; none: for ever."""

    def __post_init__(self) -> None:
        _check(
            self.operator in ("Equal", "Exists"), f"operator must be Equal or Exists, not {self.operator!r}"
        )
        _check(
            self.effect in _EFFECTS, f"effect must be {', '.join(_EFFECTS[1:])} or empty, not {self.effect!r}"
        )
        _check(bool(self.key) or self.operator == "Exists", "key must be given, unless operator is Exists")
        _check(not (self.operator == "Exists" and self.value), "value must be empty where operator is Exists")


@dataclass(frozen=True)
class PvcMount:
    """A PersistentVolumeClaim and where the pods see it."""

    claim: str
    path: str
    """Absolute folder in the pods."""
    read_only: bool = False
    sub_path: str = ""
    """Folder inside the volume; empty: the whole."""

    def __post_init__(self) -> None:
        _check_name(self.claim, "claim")
        _check(self.path.startswith("/"), f"path must be an absolute folder, not {self.path!r}")
        _check(
            not self.sub_path.startswith("/") and ".." not in PurePosixPath(self.sub_path).parts,
            f"sub_path must be a folder inside the volume, not {self.sub_path!r}",
        )


@dataclass(frozen=True)
class SecretEnv:
    """An environment variable with the value of a secret's key, for credentials of object stores and remotes."""

    secret: str
    key: str
    env: str

    def __post_init__(self) -> None:
        _check_name(self.secret, "secret")
        _check(bool(self.key), "key must not be empty")
        _check(bool(_ENV_NAME.fullmatch(self.env)), f"env must be the name of a variable, not {self.env!r}")


@dataclass(frozen=True)
class ClusterProfile:
    """Where and with what pods run. Resources are those of one training pod, that is, of one node of the job."""

    image: str
    """Container image with this software."""
    light_image: str | None = None
    """For steps that need no torch (validate, gate, deploy, version, finish): quicker to pull; none: `image`."""
    namespace: str = "default"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    """Of the pods; none: the namespace's default."""
    gpu: GpuProfile = field(default_factory=GpuProfile)
    cpu: float = 8.0
    """Processors."""
    memory: str = "32Gi"
    shm_size: str = "8Gi"
    """Size of /dev/shm, through which the processes of a pod exchange tensors; part of `memory`."""
    scratch_size: str = "64Gi"
    """Local disk for staged shards of the data set; see `get3d train --cache-gb`."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    pvcs: tuple[PvcMount, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    secret_env: tuple[SecretEnv, ...] = ()
    queue: str = "default"
    """Volcano queue."""
    triton_secret: str | None = None
    """Secret whose key `control-token` lets `get3d deploy` load models into Triton; given to that step alone. Its keys
    `token` and `ca.crt`, where there are such, are for servers that ask for a token and that encrypt."""
    priority_class: str | None = None
    max_retries: int = 3
    """How often a training that failed starts again from its last checkpoint."""
    termination_grace_s: int = 120
    """Between SIGTERM and SIGKILL: enough for one step and a checkpoint."""
    run_as_user: int | None = None
    """User id of the pods' processes; none: the image's."""
    fs_group: int | None = None
    """Group id that volumes are made writable for."""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("image", "light_image"):
            value = getattr(self, name)
            _check(
                value is None or (bool(value.strip()) and " " not in value),
                f"{name} must name an image, not {value!r}",
            )
        for name in ("namespace", "service_account", "queue", "priority_class", "triton_secret"):
            value = getattr(self, name)
            if value is not None:
                _check_name(value, name)
        for value in self.image_pull_secrets:
            _check_name(value, "image_pull_secrets")
        _check(
            self.image_pull_policy in _PULL_POLICIES,
            f"image_pull_policy must be {', '.join(_PULL_POLICIES)}, not {self.image_pull_policy!r}",
        )
        _check(self.cpu > 0, f"cpu must be positive, not {self.cpu}")
        for name in ("memory", "shm_size", "scratch_size"):
            _check_quantity(getattr(self, name), name)
        _check(
            quantity_bytes(self.shm_size) <= quantity_bytes(self.memory),
            f"shm_size ({self.shm_size}) must not be more than memory ({self.memory}), which it is part of",
        )
        _check(self.max_retries >= 0, f"max_retries must be 0 or more, not {self.max_retries}")
        _check(
            self.termination_grace_s >= 1,
            f"termination_grace_s must be at least 1, not {self.termination_grace_s}",
        )
        for name in ("run_as_user", "fs_group"):
            value = getattr(self, name)
            _check(value is None or value >= 0, f"{name} must be 0 or more, not {value}")
        for name in ("node_selector", "labels"):
            for key, value in getattr(self, name).items():
                good = _LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value) and len(value) <= 63
                _check(bool(good), f"{name}.{key} must be a label and its value, not {value!r}")
        for key in self.env:
            _check(bool(_ENV_NAME.fullmatch(key)), f"env.{key} is not the name of a variable")
        paths = [mount.path.rstrip("/") for mount in self.pvcs]
        for path in paths:
            _check(paths.count(path) == 1, f"pvcs has two mounts at {path}; give each its own folder")

    @property
    def whole_node_selector(self) -> dict[str, str]:
        """With the type of GPU."""
        chosen = {} if self.gpu.type is None or not self.gpu.count else {self.gpu.type_label: self.gpu.type}
        return {**self.node_selector, **chosen}

    @property
    def cpu_text(self) -> str:
        """As a Kubernetes quantity: 8, or 500m."""
        return str(int(self.cpu)) if self.cpu == int(self.cpu) else f"{round(self.cpu * 1000)}m"

    @property
    def memory_mb(self) -> int:
        return quantity_bytes(self.memory) // 10**6


def load_profile(path: Path) -> ClusterProfile:
    """Reads and checks a cluster profile. Raises InputError."""
    try:
        data = read_yaml(Path(path))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such cluster profile; docs/training-jobs.md shows one, `image` alone is enough to start"
        ) from None
    return profile_from_dict(data, str(path))


def profile_from_dict(data: Any, source: str = "cluster profile") -> ClusterProfile:
    """Builds a profile from plain values (the inverse of `dataclasses.asdict`). Raises InputError."""
    return settings_from_dict(ClusterProfile, data, source)
