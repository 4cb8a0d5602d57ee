"""The manifests as kubectl renders them, each combination once."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
CRDS = ROOT.parent / "shared" / "crds"
OVERLAYS = ("local", "gpu")
# What a user's own overlay would add, by name: the overlay beneath, and its components.
VARIANTS = {
    "gpu-kserve": ("gpu", ("kserve", "secrets-external", "monitoring")),
    "gpu-standalone": ("gpu", ("autoscale-keda", "kubeflow-standalone")),
    "local-secrets": ("local", ("secrets-plain", "monitoring", "kubeflow-standalone")),
}
NAMESPACES = {"local": "kubeflow", "gpu": "get3d", "gpu-standalone": "kubeflow"}
CLUSTER_WIDE = ("Namespace", "PriorityClass", "Queue")
Manifest = dict[str, Any]

needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl, to render manifests")


def namespace_of(name: str) -> str:
    return NAMESPACES.get(name) or NAMESPACES[VARIANTS[name][0]]


@functools.cache
def rendered_text(name: str) -> str:
    if name in OVERLAYS:
        return kustomize(K8S / "overlays" / name)
    overlay, components = VARIANTS[name]
    with tempfile.TemporaryDirectory() as temporary:
        # Files that only a user has belong to one of the components: all of them are copied.
        k8s = Path(temporary).resolve() / "k8s"
        shutil.copytree(K8S, k8s, ignore=shutil.ignore_patterns("*.env"))
        for example in k8s.rglob("*.env.example"):
            content = example.read_text().replace("=\n", "=sixteen-letters-at-least\n")
            example.with_suffix("").write_text(content)
        folder = k8s / "overlays" / "own"
        folder.mkdir()
        own = {
            "resources": [f"../{overlay}"],
            "components": [f"../../components/{component}" for component in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
        return kustomize(folder)


def kustomize(folder: Path) -> str:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "GOMAXPROCS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecated fields are named here
    return done.stdout


@functools.cache
def rendered(name: str) -> tuple[Manifest, ...]:
    return tuple(yaml.load_all(rendered_text(name), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def one(name: str, kind: str, resource: str) -> Manifest:
    (found,) = [m for m in rendered(name) if m["kind"] == kind and m["metadata"]["name"] == resource]
    return found


def pods(name: str) -> Iterator[tuple[str, Manifest]]:
    """(whose, pod spec) of everything that starts pods."""
    for manifest in rendered(name):
        whose = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] in ("Deployment", "Job"):
            yield whose, manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "InferenceService":
            yield whose, manifest["spec"]["predictor"]
