"""What a training job is, whichever scheduler runs it."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import torchx.specs as specs

from components.cluster_profile import ClusterProfile
from components.train.rank import PARAMS
from components.train.torchx_app import train
from get3d_model.files import sha256_json
from get3d_model.settings import read_yaml

SUFFIX_LENGTH = 6
# The longest name made of a job's is that of Volcano's pods: NAME-trainer-999-0, a DNS label of at most 63 letters.
NAME_LENGTH = 63 - len("-trainer-999-0")
MAX_NODES = 1000
PORT = 29500
SCRATCH = "/scratch"
RUN_LABEL = "get3d/run"
"""Jobs that write into the same --out have the same value."""
SPEC_ANNOTATION = "get3d/spec"
"""Jobs with the same value do the same."""


@dataclass(frozen=True)
class JobSpec:
    """config, data, out and init_from are as the pods see them. profile: None on this machine, if there is none."""

    config: Path
    data: str
    out: str
    nodes: int
    procs_per_node: int
    name: str = "get3d-train"
    max_retries: int = 3
    init_from: str = ""
    restart_on_change: bool = False
    metrics_textfile: str = ""
    cache_dir: str = ""
    cache_gb: float = 0.0
    profile: ClusterProfile | None = None

    @property
    def run_id(self) -> str:
        namespace = self.profile.namespace if self.profile else ""
        return hashlib.sha256(f"{namespace} {self.out}".encode()).hexdigest()[:16]

    def application(
        self, max_restarts: int, params_inside: bool, port: int = PORT, timeout_s: int = 900
    ) -> specs.AppDef:
        """The TorchX application. params_inside: the params file travels in the environment."""
        profile = self.profile
        environment = dict(profile.env) if profile else {}
        if params_inside:
            # JSON is YAML. TorchX and Kubernetes both read a dollar sign as the beginning of a variable.
            environment[PARAMS] = json.dumps(read_yaml(self.config), sort_keys=True).replace("$", "\\u0024")
        return train(
            config=self.config.name if params_inside else str(self.config),
            data=self.data,
            out=self.out,
            j=f"{self.nodes}x{self.procs_per_node}",
            max_restarts=max_restarts,
            init_from=self.init_from,
            restart_on_change=self.restart_on_change,
            metrics_textfile=self.metrics_textfile,
            cache_dir=self.cache_dir,
            cache_gb=self.cache_gb,
            image=profile.image if profile else "none",
            cpu=profile.cpu if profile else 0,
            gpu=profile.gpu.count if profile else 0,
            memMB=profile.memory_mb if profile else 0,
            rdzv_port=port,
            rdzv_timeout_s=timeout_s,
            env=environment,
            name=f"/{self.name}",
        )


def job_name(base: str, suffix: str | None = None) -> str:
    """A new Kubernetes name from any text, short enough that the names made of it keep to 63 letters."""
    suffix = suffix or "".join(
        secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(SUFFIX_LENGTH)
    )
    clean = re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-")
    if not clean or not clean[0].isalpha():
        clean = f"job-{clean}".rstrip("-")
    room = NAME_LENGTH - len(suffix) - 1
    if len(clean) > room:
        # What is cut off still tells names apart.
        mark = hashlib.sha256(base.encode()).hexdigest()[:6]
        clean = f"{clean[: room - 7].rstrip('-')}-{mark}"
    return f"{clean}-{suffix}"


def spec_hash(manifest: dict, name: str) -> str:
    """Equal for manifests that differ in the job's name alone."""

    def clean(item: object) -> object:
        if isinstance(item, dict):
            return {key: clean(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [clean(inner) for inner in item]
        return item.replace(name, "NAME") if isinstance(item, str) else item

    return sha256_json(clean(manifest))[:16]
