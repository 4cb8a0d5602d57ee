"""What the Prometheus operator on Kubernetes reads, made from the files for one machine: `python -m monitoring.operator`.

k8s/components/monitoring is a kustomize component; the checked-in files are tested to be what this writes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from get3d_model.files import write_bytes_atomic

ROOT = Path(__file__).parent.parent
RULES = ROOT / "monitoring" / "prometheus" / "rules.yml"
DASHBOARDS = ROOT / "monitoring" / "grafana" / "dashboards"
COMPONENT = ROOT / "k8s" / "components" / "monitoring"
LABELS = {"app.kubernetes.io/part-of": "get3d"}
NAMESPACE = "get3d"
TRAINING_PODS = {"torchx.pytorch.org/role-name": "trainer"}
SERVING_PODS = {"app.kubernetes.io/name": "get3d-triton"}
PORT_NAME = "metrics"
TRAINING_PORT = 9464
"""GET3D_METRICS_PORT in the `env` of the cluster profile says so to the trainer, and its pods declare it by this name."""
FIRST_POD = ("batch_kubernetes_io_job_completion_index", "torchx_pytorch_org_replica_id")
"""Labels of a training's pods that number them: those of an Indexed Job, and of Volcano's. Only the first one exports."""
STEP_PODS = {"pipelines.kubeflow.org/v2_component": "true"}
MONITORING = "monitoring"
"""The namespace of Prometheus and of the Pushgateway."""
PUSHGATEWAY_PORT = 9091
HEADER = "# Made by `python -m monitoring.operator`; edits are overwritten.\n"
RUNBOOK = "docs/runbook.md"


def rules() -> dict[str, Any]:
    """The same groups as for one machine; the monitors give targets the job names that the rules use."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "get3d", "labels": LABELS},
        "spec": {"groups": groups},
    }


def _job(name: str) -> list[dict[str, Any]]:
    """Rules select targets by job; the operator would name it after the service or the monitor."""
    return [{"targetLabel": "job", "replacement": name, "action": "replace"}]


def service_monitor(job: str, service: str, port: str, namespace: str) -> dict[str, Any]:
    """For the services of this name (label app.kubernetes.io/name) in another namespace, whose series keep the labels
    they were pushed with."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": job, "labels": LABELS},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": service}},
            "namespaceSelector": {"matchNames": [namespace]},
            "endpoints": [
                {
                    "port": port,
                    "path": "/metrics",
                    "interval": "15s",
                    "relabelings": _job(job),
                    "honorLabels": True,
                }
            ],
        },
    }


def pod_monitor(job: str, pods: dict[str, str], *keep: dict[str, Any]) -> dict[str, Any]:
    """For the port `metrics` of the pods with these labels, whatever starts them. keep: rules that leave some of them."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": job, "labels": LABELS},
        "spec": {
            "selector": {"matchLabels": pods},
            "podMetricsEndpoints": [
                {
                    "port": PORT_NAME,
                    "path": "/metrics",
                    "interval": "15s",
                    "relabelings": [
                        *keep,
                        *_job(job),
                        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"},
                    ],
                }
            ],
        },
    }


def first_pod() -> dict[str, Any]:
    """The rule that leaves a training's first pod."""
    labels = [f"__meta_kubernetes_pod_label_{label}" for label in FIRST_POD]
    return {"sourceLabels": labels, "regex": "0?;0?", "action": "keep"}


def network_policies() -> list[dict[str, Any]]:
    """Let Prometheus reach the exporters of trainings, and steps the Pushgateway."""
    monitoring = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": MONITORING}}}]
    scrape = {"from": monitoring, "ports": [{"protocol": "TCP", "port": TRAINING_PORT}]}
    push = {"to": monitoring, "ports": [{"protocol": "TCP", "port": PUSHGATEWAY_PORT}]}
    return [
        _policy("get3d-training-metrics", TRAINING_PODS, {"policyTypes": ["Ingress"], "ingress": [scrape]}),
        _policy("get3d-step-metrics", STEP_PODS, {"policyTypes": ["Egress"], "egress": [push]}),
    ]


def _policy(name: str, pods: dict[str, str], rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {"podSelector": {"matchLabels": pods}, **rules},
    }


def dashboards() -> dict[str, Any]:
    """Grafana's side-car picks config maps with this label up."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "get3d-dashboards", "labels": {**LABELS, "grafana_dashboard": "1"}},
        "data": {
            path.name: json.dumps(json.loads(path.read_text()), separators=(",", ":"))
            for path in sorted(DASHBOARDS.glob("*.json"))
        },
    }


def files() -> dict[str, str]:
    """The component's files by name."""
    documents = {
        "prometheusrule.yaml": [rules()],
        # As the community's Helm chart names it.
        "servicemonitor.yaml": [
            service_monitor("get3d-pushgateway", "prometheus-pushgateway", "http", MONITORING)
        ],
        # KServe makes services of its own, so that the servers, too, are found as pods.
        "podmonitor.yaml": [
            pod_monitor("get3d-serving", SERVING_PODS),
            pod_monitor("get3d-training", TRAINING_PODS, first_pod()),
        ],
        "network.yaml": network_policies(),
        "dashboards.yaml": [dashboards()],
    }
    for contents in documents.values():
        for document in contents:
            # That of k8s/base: overlays set none, so that a queue, which has none, keeps none.
            document["metadata"]["namespace"] = NAMESPACE
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": sorted(documents),
    }
    documents["kustomization.yaml"] = [kustomization]
    return {
        name: HEADER + yaml.safe_dump_all(contents, sort_keys=False, width=120)
        for name, contents in documents.items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=COMPONENT, help="folder of the component")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        write_bytes_atomic(args.out / name, text.encode())


if __name__ == "__main__":
    main()
