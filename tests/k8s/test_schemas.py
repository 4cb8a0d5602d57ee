"""Every rendered manifest against the schemas of Kubernetes and of the operators; golden files show every change.

`GET3D_UPDATE_GOLDEN=1 pytest tests/k8s/test_schemas.py` writes the golden files anew.
"""

from __future__ import annotations

import copy
import functools
import os
from typing import Any

import pytest

from tests.components.test_train_manifests import schema_of
from tests.k8s.rendering import (
    CLUSTER_WIDE,
    CRDS,
    OVERLAYS,
    ROOT,
    VARIANTS,
    Manifest,
    namespace_of,
    needs_kubectl,
    one,
    rendered,
    rendered_text,
)

pytestmark = needs_kubectl
GOLDEN = ROOT / "tests" / "golden" / "k8s"
# The oldest that has everything we use, and the newest known to the validator in use.
KUBERNETES = ("1.31", "1.37")
DEFINITIONS = {"InferenceService": "kserve-inferenceservice.yaml", "PrometheusRule": "prometheusrule.yaml",
               "ServiceMonitor": "servicemonitor.yaml"}  # fmt: skip
CHECKED_ELSEWHERE = "PodMonitor"  # tests/monitoring/test_operator.py
QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}


def _strict(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
# No definition of these lies here: the fields of their documentation that we use, and no others.
WRITTEN_DOWN = {
    "Queue": _strict(
        {"weight": NUMBER, "reclaimable": {"type": "boolean"}, "capability": QUANTITIES, "deserved": QUANTITIES,
         "parent": TEXT}
    ),
    "ScaledObject": _strict(
        {
            "scaleTargetRef": _strict({"apiVersion": TEXT, "kind": TEXT, "name": TEXT}, "name"),
            "minReplicaCount": NUMBER, "maxReplicaCount": NUMBER, "pollingInterval": NUMBER, "cooldownPeriod": NUMBER,
            "fallback": _strict({"failureThreshold": NUMBER, "replicas": NUMBER}, "failureThreshold", "replicas"),
            "advanced": _strict({"horizontalPodAutoscalerConfig": _strict({"behavior": {"type": "object"}})}),
            "triggers": {"type": "array", "items": _strict(
                {"type": TEXT, "metricType": {"enum": ["AverageValue", "Value", "Utilization"]},
                 "metadata": {"type": "object", "additionalProperties": TEXT}}, "type", "metadata")},
        },
        "scaleTargetRef", "triggers",
    ),
    "ExternalSecret": _strict(
        {
            "refreshInterval": TEXT,
            "secretStoreRef": _strict({"kind": TEXT, "name": TEXT}, "name"),
            "target": _strict({"name": TEXT, "creationPolicy": {"enum": ["Owner", "Orphan", "Merge", "None"]}}),
            "data": {"type": "array", "items": _strict(
                {"secretKey": TEXT, "remoteRef": _strict({"key": TEXT, "property": TEXT}, "key")}, "secretKey", "remoteRef")},
        },
        "secretStoreRef", "data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERLAYS)
def test_golden(name: str) -> None:
    path, text = GOLDEN / f"{name}.yaml", rendered_text(name)
    if os.environ.get("GET3D_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@functools.cache
def builtin_validator() -> Any:
    validate = pytest.importorskip("kubernetes_validate")
    from kubernetes_validate import utils

    # It parses all definitions of a Kubernetes version, megabytes, for every manifest.
    utils.schema_contents = functools.cache(utils.schema_contents)
    return validate


@functools.cache
def custom_validator(kind: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    if kind in WRITTEN_DOWN:
        return jsonschema.Draft202012Validator(
            _strict(
                {
                    "apiVersion": TEXT,
                    "kind": TEXT,
                    "metadata": {"type": "object"},
                    "spec": WRITTEN_DOWN[kind],
                },
                "spec",
            )
        )
    path = CRDS / DEFINITIONS[kind]
    return jsonschema.Draft202012Validator(schema_of(path)) if path.is_file() else None


def is_custom(manifest: Manifest) -> bool:
    return manifest["kind"] in (*WRITTEN_DOWN, *DEFINITIONS, CHECKED_ELSEWHERE)


@functools.cache
def distinct() -> tuple[tuple[str, Manifest], ...]:
    """(where first seen, manifest) of all overlays and variants, equal ones once."""
    seen: dict[str, tuple[str, Manifest]] = {}
    for name in (*OVERLAYS, *VARIANTS):
        for manifest in rendered(name):
            label = f"{name}: {manifest['kind']}/{manifest['metadata']['name']}"
            seen.setdefault(repr(manifest), (label, manifest))
    return tuple(seen.values())


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_its_own_kinds(version: str) -> None:
    validate = builtin_validator()
    for label, manifest in distinct():
        if is_custom(manifest):
            continue
        try:
            validate.validate(manifest, version, strict=True)
        except validate.ValidationError as error:
            pytest.fail(f"{label} for Kubernetes {version}: {error.message} at {list(error.path)}")


def test_that_check_can_fail() -> None:
    validate = builtin_validator()
    wrong = copy.deepcopy(one("local", "Deployment", "get3d-triton"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    for version in KUBERNETES:
        with pytest.raises(validate.ValidationError):
            validate.validate(wrong, version, strict=True)


def test_operators_accept_theirs() -> None:
    kinds, missing = set(), set()
    for label, manifest in distinct():
        if not is_custom(manifest) or manifest["kind"] == CHECKED_ELSEWHERE:
            continue
        validator = custom_validator(manifest["kind"])
        if validator is None:
            missing.add(manifest["kind"])
            continue
        errors = [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(manifest)]
        assert errors == [], label
        broken = {**manifest, "spec": {**manifest["spec"], "notAField": 1}}
        assert list(validator.iter_errors(broken)), label
        kinds.add(manifest["kind"])
    assert kinds >= {"Queue", "ScaledObject", "ExternalSecret"}
    if missing:
        pytest.skip(f"no definition here of {', '.join(sorted(missing))}; the others were checked")


@pytest.mark.parametrize("name", [*OVERLAYS, *VARIANTS])
def test_everything_is_in_its_namespace(name: str) -> None:
    for manifest in rendered(name):
        wide = manifest["kind"] in CLUSTER_WIDE
        assert manifest["metadata"].get("namespace") == (None if wide else namespace_of(name)), manifest
    subjects = [m["subjects"][0]["namespace"] for m in rendered(name) if m["kind"] == "RoleBinding"]
    assert set(subjects) == {namespace_of(name)}
