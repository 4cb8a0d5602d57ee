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
TRAINING_PORT = 9464
"""GET3D_METRICS_PORT in the `env` of the cluster profile says so to the trainer."""
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


def service_monitor(job: str, service: str, port: str, honor: bool = False) -> dict[str, Any]:
    """For the services of this name (label app.kubernetes.io/name) with this port."""
    endpoint: dict[str, Any] = {"port": port, "path": "/metrics", "interval": "15s", "relabelings": _job(job)}
    if honor:
        endpoint["honorLabels"] = True
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": job, "labels": LABELS},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": service}},
            "endpoints": [endpoint],
        },
    }


def pod_monitor() -> dict[str, Any]:
    """Training pods come and go, and have no service."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "get3d-training", "labels": LABELS},
        "spec": {
            "selector": {"matchLabels": TRAINING_PODS},
            "podMetricsEndpoints": [
                {
                    # Of several processes only the first exports; the others refuse the connection.
                    "portNumber": TRAINING_PORT,
                    "path": "/metrics",
                    "interval": "15s",
                    "relabelings": [
                        *_job("get3d-training"),
                        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"},
                    ],
                }
            ],
        },
    }


def network_policy() -> dict[str, Any]:
    """Lets Prometheus, in the namespace `monitoring`, reach the exporters of trainings."""
    namespace = {"kubernetes.io/metadata.name": "monitoring"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "get3d-training-metrics", "labels": LABELS},
        "spec": {
            "podSelector": {"matchLabels": TRAINING_PODS},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"namespaceSelector": {"matchLabels": namespace}}],
                    "ports": [{"protocol": "TCP", "port": TRAINING_PORT}],
                }
            ],
        },
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
        "servicemonitor.yaml": [
            service_monitor("get3d-serving", "get3d-triton", "metrics"),
            # As the community's Helm chart names it.
            service_monitor("get3d-pushgateway", "prometheus-pushgateway", "http", honor=True),
        ],
        "podmonitor.yaml": [pod_monitor()],
        "network.yaml": [network_policy()],
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
