"""What the monitors select is there: services, pods and ports, and the network policies let the scrapes and pushes through."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.cluster_profile import load_profile
from components.train.endpoint import HOST, PORT
from monitoring import operator, steps
from tests.k8s.rendering import K8S, VARIANTS, Manifest, namespace_of, needs_kubectl, one, rendered
from tests.k8s.test_policy import pod_templates, selects, training_jobs

pytestmark = needs_kubectl
WITH_MONITORING = [name for name, (_, components) in VARIANTS.items() if "monitoring" in components]
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}


def of_kind(name: str, kind: str) -> Iterator[Manifest]:
    return (manifest for manifest in rendered(name) if manifest["kind"] == kind)


def served_ports(pod: Manifest) -> dict[str, int]:
    """The declared ports of a pod (template or spec) that have a name."""
    spec = pod.get("spec", pod)
    return {
        port["name"]: port["containerPort"]
        for container in spec["containers"]
        for port in container.get("ports", [])
        if "name" in port
    }


def pod_labels(name: str) -> Iterator[tuple[dict[str, str], Manifest]]:
    """(labels, pod spec) of the servers."""
    for manifest in rendered(name):
        if manifest["kind"] == "Deployment":
            template = manifest["spec"]["template"]
            yield template["metadata"]["labels"], template["spec"]
        elif manifest["kind"] == "InferenceService":
            predictor = manifest["spec"]["predictor"]
            yield {**manifest["metadata"].get("labels", {}), **predictor.get("labels", {})}, predictor


def allowed(
    name: str, labels: dict[str, str], direction: str, port: int, other: dict[str, dict[str, str]]
) -> bool:
    """Whether a policy lets these pods have traffic on a port with `other` (a peer's selector, as it is written)."""
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return any(
        other in rule.get(peers, []) and port in [item["port"] for item in rule["ports"]]
        for policy in of_kind(name, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], labels) and direction in policy["spec"]["policyTypes"]
        for rule in policy["spec"].get(key, [])
    )


def kept(endpoint: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether the `keep` rules leave a pod with these labels, as Prometheus reads them."""
    meta = {
        f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', key)}": value
        for key, value in labels.items()
    }
    return all(
        re.fullmatch(rule["regex"], ";".join(meta.get(label, "") for label in rule["sourceLabels"]))
        for rule in endpoint["relabelings"]
        if rule.get("action") == "keep"
    )


def monitor(name: str, kind: str, resource: str) -> tuple[Manifest, dict[str, Any]]:
    """(its spec, its one endpoint)"""
    spec = one(name, kind, resource)["spec"]
    (endpoint,) = spec.get("podMetricsEndpoints") or spec["endpoints"]
    return spec, endpoint


@pytest.mark.parametrize("name", WITH_MONITORING)
def test_every_server_is_scraped_by_its_port(name: str) -> None:
    """With KServe, too, which has no service of ours before its pods."""
    spec, endpoint = monitor(name, "PodMonitor", "get3d-serving")
    found = [(labels, pod) for labels, pod in pod_labels(name) if selects(spec["selector"], labels)]
    assert len(found) == 1
    for labels, pod in found:
        number = served_ports(pod)[endpoint["port"]]
        assert allowed(name, labels, "Ingress", number, {"namespaceSelector": {"matchLabels": MONITORING}})
        assert kept(endpoint, labels)


@pytest.mark.parametrize("name", WITH_MONITORING)
def test_the_pushgateway_is_looked_for_where_it_is(name: str) -> None:
    """It is not ours; a monitor looks into its own namespace unless told otherwise."""
    spec, endpoint = monitor(name, "ServiceMonitor", "get3d-pushgateway")
    assert spec["namespaceSelector"] == {"matchNames": list(MONITORING.values())}
    assert endpoint["honorLabels"], "a push says which job and step it is from"


@pytest.mark.parametrize("overlay", sorted({VARIANTS[name][0] for name in WITH_MONITORING}))
def test_the_pod_monitor_finds_the_first_process_of_every_training(overlay: str, tmp_path: Path) -> None:
    profile = load_profile(K8S / "overlays" / overlay / "cluster.yaml")
    name = next(name for name in WITH_MONITORING if VARIANTS[name][0] == overlay)
    spec, endpoint = monitor(name, "PodMonitor", "get3d-training")
    there = one(name, "PodMonitor", "get3d-training")["metadata"]["namespace"]
    assert there == profile.namespace == namespace_of(name)
    for job in training_jobs(profile, tmp_path):
        scraped = []
        templates = pod_templates(job)
        for template in templates:
            labels = template["metadata"]["labels"]
            assert selects(spec["selector"], labels)
            (container,) = template["spec"]["containers"]
            environment = {item["name"]: item.get("value") for item in container["env"]}
            port = served_ports(template)[endpoint["port"]]
            assert environment[PORT] == str(port) and environment[HOST] == "0.0.0.0"
            assert allowed(name, labels, "Ingress", port, {"namespaceSelector": {"matchLabels": MONITORING}})
            # The Job's controller numbers its pods, which come from one template; Volcano's are numbered already.
            numbered = (
                [labels] if len(templates) > 1
                else [{**labels, "batch.kubernetes.io/job-completion-index": str(n)} for n in range(2)]
            )  # fmt: skip
            scraped += [kept(endpoint, one) for one in numbered]
        assert scraped == [True, False], "the others export nothing, and would be down for ever"
    silent = dataclasses.replace(profile, env={})
    for job in training_jobs(silent, tmp_path):
        assert all(endpoint["port"] not in served_ports(template) for template in pod_templates(job))


@pytest.mark.parametrize("name", WITH_MONITORING)
def test_steps_reach_the_pushgateway_that_the_profile_names(name: str) -> None:
    path = K8S / "overlays" / VARIANTS[name][0] / "cluster.yaml"
    text = path.read_text()
    _, namespace, port = re.search(rf"{steps.PUSHGATEWAY}: http://([a-z-]+)\.([a-z]+):(\d+)", text).groups()
    step = {**load_profile(path).labels, "pipelines.kubeflow.org/v2_component": "true"}
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    assert allowed(name, step, "Egress", int(port), peer)
    assert not allowed("gpu", step, "Egress", int(port), peer), "only where the component is"


def test_restarts_are_those_of_the_servers() -> None:
    """The rule names containers and pods; those of the Deployment and of KServe fit it."""
    (rule,) = [
        r
        for g in operator.rules()["spec"]["groups"]
        for r in g["rules"]
        if r.get("alert") == "Get3dServerRestarted"
    ]
    container, pod = re.search(r'container=~"([^"]+)",pod=~"([^"]+)"', rule["expr"]).groups()
    for name, kind in (("gpu", "Deployment"), ("gpu-kserve", "InferenceService")):
        for manifest in of_kind(name, kind):
            spec = manifest["spec"].get("predictor") or manifest["spec"]["template"]["spec"]
            assert all(re.fullmatch(container, box["name"]) for box in spec["containers"])
            assert re.fullmatch(pod, f"{manifest['metadata']['name']}-7d9f-x")
