"""What the Prometheus operator reads: made from the files for one machine, valid, and rendered by kubectl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from monitoring import operator
from tests.components.test_train_manifests import schema_of

CRDS = operator.ROOT.parent / "shared" / "crds"


def documents() -> list[dict[str, Any]]:
    return [
        document
        for path in sorted(operator.COMPONENT.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]


def test_the_files_are_what_the_code_writes() -> None:
    assert {path.name for path in operator.COMPONENT.iterdir()} == operator.files().keys()
    for name, text in operator.files().items():
        assert (operator.COMPONENT / name).read_text() == text, "run: python -m monitoring.operator"


@pytest.mark.parametrize("kind", ["PrometheusRule", "ServiceMonitor"])
def test_the_definitions_of_the_operator_accept_them(kind: str) -> None:
    definition = CRDS / f"{kind.lower()}.yaml"
    if not definition.is_file():
        pytest.skip(f"no {definition.name}: the custom resource definitions are not part of the repository")
    validator = jsonschema.Draft202012Validator(schema_of(definition))
    found = [document for document in documents() if document["kind"] == kind]
    assert found
    for document in found:
        validator.validate(document)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({**document, "spec": {**document["spec"], "wrong": 1}})


def test_a_pod_monitor_is_made_as_a_service_monitor_is() -> None:
    """Its definition is not at hand; its endpoints have a port, path, interval and relabelings as a service's have."""
    definition = CRDS / "servicemonitor.yaml"
    if not definition.is_file():
        pytest.skip(f"no {definition.name}: the custom resource definitions are not part of the repository")
    found = [document for document in documents() if document["kind"] == "PodMonitor"]
    assert {monitor["metadata"]["name"] for monitor in found} == {"get3d-serving", "get3d-training"}
    validator = jsonschema.Draft202012Validator(schema_of(definition))
    for monitor in found:
        spec = {
            "selector": monitor["spec"]["selector"],
            "endpoints": monitor["spec"]["podMetricsEndpoints"],
        }
        assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
        validator.validate({**monitor, "kind": "ServiceMonitor", "spec": spec})


def test_kubectl_renders_the_component_with_an_overlay(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl, to render manifests")
    k8s = tmp_path / "k8s"
    shutil.copytree(operator.COMPONENT, k8s / "monitoring")
    (k8s / "own").mkdir()
    own = {"namespace": "elsewhere", "components": ["../monitoring"]}
    (k8s / "own" / "kustomization.yaml").write_text(yaml.safe_dump(own))
    done = subprocess.run(
        ["kubectl", "kustomize", str(k8s / "own")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert len(rendered) == len(documents())
    assert {document["metadata"]["namespace"] for document in rendered} == {"elsewhere"}
