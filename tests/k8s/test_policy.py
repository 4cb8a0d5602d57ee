"""What must hold of every manifest, whoever changes it: security, resources, probes, and the numbers that belong together."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from components.cluster_profile import ClusterProfile, load_profile, quantity_bytes
from components.train.cluster_job import ClusterJob
from components.train.indexed_job import IndexedJob
from components.train.volcano import VolcanoJob
from get3d_model.config import ServingConfig
from serving.codec import MAX_RESPONSE_BYTES, MODEL_NAME
from serving.repository import SERVED_VERSIONS, Limits
from tests.components.train_profiles import spec
from tests.k8s.rendering import (
    K8S,
    OVERLAYS,
    ROOT,
    VARIANTS,
    Manifest,
    namespace_of,
    needs_kubectl,
    one,
    pods,
    rendered,
)

pytestmark = needs_kubectl
EVERYTHING = [*OVERLAYS, *VARIANTS]
REQUEST_BYTES = 64 << 20
"""Room for requests beside the answers; docs/serving-api.md, Sizes."""
HELD_MODELS = SERVED_VERSIONS + 1
"""While `get3d deploy` tests a version; docs/serving.md, Roll-outs."""


def containers(name: str) -> Iterator[tuple[str, Manifest, Manifest]]:
    """(whose, pod spec, container)"""
    for whose, pod in pods(name):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name}: {whose}", pod, container


def faults(pod: Manifest, container: Manifest) -> list[str]:
    """What is wrong with a container of ours."""
    security, own = pod.get("securityContext", {}), container.get("securityContext", {})
    resources = container.get("resources", {})
    tag = container["image"].rpartition("/")[2].partition(":")[2]
    mounts = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
    checks = {
        "image without a tag, or latest": tag not in ("", "latest") or "@sha256:" in container["image"],
        "may be root": security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0,
        "no seccomp profile": security.get("seccompProfile") == {"type": "RuntimeDefault"},
        "may gain privileges": own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
        "has capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "can write to its image": own.get("readOnlyRootFilesystem") is True,
        "no requests or limits": all(
            resources.get(part, {}).get(what) for part in ("requests", "limits") for what in ("cpu", "memory")
        ),
        "has an account's token": pod.get("automountServiceAccountToken") is False,
        "has the default account": pod.get("serviceAccountName", "default") != "default",
        "shares the node": not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
        "mounts the node's disk": not any("hostPath" in volume for volume in pod.get("volumes", [])),
        "HOME is not writable": "HOME" not in _env(container) or bool(mounts & set(_parents(_env(container)["HOME"]))),
        "secrets in the environment": not any(
            re.search(r"(?i)token|password|secret|key$", item["name"]) and "value" in item
            for item in container.get("env", [])
        ),
    }  # fmt: skip
    return [fault for fault, good in checks.items() if not good]


def _env(container: Manifest) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container.get("env", [])}


def _parents(path: str) -> Iterator[str]:
    while path not in ("", "/"):
        yield path
        path = path.rpartition("/")[0]


@pytest.mark.parametrize("name", EVERYTHING)
def test_containers(name: str) -> None:
    found = list(containers(name))
    assert len(found) >= 2
    for whose, pod, container in found:
        assert faults(pod, container) == [], whose
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"].get("sizeLimit"), (whose, volume)
        if "Job" not in whose:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), whose


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda pod, box: box.update(image="a/b:latest"), "image without a tag, or latest"),
        (lambda pod, box: box.update(image="localhost:5000/b"), "image without a tag, or latest"),
        (lambda pod, box: pod["securityContext"].update(runAsUser=0), "may be root"),
        (lambda pod, box: box["resources"]["limits"].pop("memory"), "no requests or limits"),
        (lambda pod, box: box["securityContext"].pop("capabilities"), "has capabilities"),
        (
            lambda pod, box: box["env"].append({"name": "API_TOKEN", "value": "x"}),
            "secrets in the environment",
        ),
        (lambda pod, box: box["env"].append({"name": "HOME", "value": "/home/a"}), "HOME is not writable"),
        (lambda pod, box: pod["volumes"].append({"hostPath": {"path": "/"}}), "mounts the node's disk"),
    ],
)
def test_that_check_can_fail(change: Any, fault: str) -> None:
    pod = yaml.safe_load(yaml.safe_dump(one("gpu", "Deployment", "get3d-triton")["spec"]["template"]["spec"]))
    change(pod, pod["containers"][0])
    assert faults(pod, pod["containers"][0]) == [fault]


@pytest.mark.parametrize("name", EVERYTHING)
def test_nobody_may_do_everything_and_no_secret_is_written_down(name: str) -> None:
    for manifest in rendered(name):
        assert manifest["kind"] not in ("ClusterRole", "ClusterRoleBinding")
        for rule in manifest.get("rules", []):
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]], manifest
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] and rule["verbs"] == ["get"]
    if name != "local-secrets":  # made from files that git does not know
        assert "Secret" not in {manifest["kind"] for manifest in rendered(name)}
    tracked = [path for path in K8S.rglob("*") if path.is_file() and path.suffix != ".env"]
    for path in tracked:
        assert not re.search(
            r"kind: Secret$|-----BEGIN|(?i:token|password): *['\"]?\w{12,}", path.read_text(), re.M
        ), path


def asked_of_the_api_server() -> set[tuple[str, str]]:
    """(resource, verb) of every call in components/train and of TorchX's scheduler, which creates Volcano's job."""
    verbs = {"create": "create", "list": "list", "read": "get", "get": "get", "delete": "delete", "patch": "patch",
             "replace": "update"}  # fmt: skip
    resources = {"job": "batch/jobs", "service": "services", "pod": "pods", "pod_log": "pods/log", "event": "events",
                 "custom_object": "batch.volcano.sh/jobs"}  # fmt: skip
    found = set()
    for path in [
        *(ROOT / "components" / "train").glob("*.py"),
        *(ROOT / "components" / "deploy").glob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", "") if isinstance(node, ast.Attribute) else ""
            if match := re.fullmatch(r"([a-z]+)_namespaced_(\w+)", name):
                found.add((resources[match[2]], verbs[match[1]]))
            elif name == "schedule":
                found.add(("batch.volcano.sh/jobs", "create"))
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_launcher_may_do_what_it_does_and_no_more(name: str) -> None:
    granted = {
        ("/".join(filter(None, [group, resource])), verb)
        for rule in one(name, "Role", "get3d-launcher")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == asked_of_the_api_server()
    bound = {m["roleRef"]["name"]: m["subjects"] for m in rendered(name) if m["kind"] == "RoleBinding"}
    assert set(bound) == {"get3d-launcher", "get3d-step"}
    assert {subject["name"] for subjects in bound.values() for subject in subjects} == {"get3d-pipeline"}


@pytest.mark.parametrize("name", EVERYTHING)
def test_shared_memory_holds_what_answers_may_take(name: str) -> None:
    """Triton keeps, per model it holds, what its largest batch took (docs/serving-api.md, Sizes)."""
    needed = HELD_MODELS * (ServingConfig().max_batch_size * MAX_RESPONSE_BYTES + REQUEST_BYTES)
    for whose, pod, container in containers(name):
        if "Job" in whose:
            continue
        shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert shm["emptyDir"]["medium"] == "Memory"
        assert quantity_bytes(shm["emptyDir"]["sizeLimit"]) == needed
        # It counts as the container's memory; a process with torch and a small model takes up to half a GiB.
        limit = quantity_bytes(container["resources"]["limits"]["memory"])
        assert limit >= needed + HELD_MODELS * (512 << 20), whose


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_was_accepted_is_answered_before_a_server_goes(name: str) -> None:
    limits = Limits()
    accepted_s = limits.queue_timeout_s + limits.time_limit_s
    for whose, pod, container in containers(name):
        if "Job" in whose:
            continue
        options = dict(arg.removeprefix("--").split("=", 1) for arg in container["args"] if "=" in arg)
        pause_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
        drain_s = float(options["drain-timeout"])
        assert drain_s >= accepted_s
        assert pod["terminationGracePeriodSeconds"] >= pause_s + drain_s + 10
        # Longer than the readiness probe takes to notice.
        ready = container["readinessProbe"]
        assert ready["httpGet"]["path"] == f"/v2/models/{MODEL_NAME}/ready"
        assert pause_s >= ready["periodSeconds"]
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= float(options["timeout"])
        for probe in ("startupProbe", "livenessProbe"):
            command = container[probe]["exec"]["command"]
            assert command[:3] == ["get3d", "probe", "--liveness"]
            timeout_s = float(command[-1].removeprefix("--timeout="))
            assert container[probe]["timeoutSeconds"] > timeout_s
        assert timeout_s >= limits.time_limit_s


def test_kserve_runs_the_same_pod() -> None:
    ours = one("gpu", "Deployment", "get3d-triton")["spec"]["template"]["spec"]
    theirs = one("gpu-kserve", "InferenceService", "get3d")["spec"]["predictor"]
    own = {"containers", "labels", "minReplicas", "deploymentStrategy"}
    # A GPU is asked for by the overlay, of the Deployment.
    gpu = {"nodeSelector", "tolerations"}
    assert {k: v for k, v in theirs.items() if k not in own} == {
        k: v for k, v in ours.items() if k not in {"containers", *gpu}
    }
    (mine,), (his,) = ours["containers"], theirs["containers"]
    differing = {key for key in mine.keys() | his.keys() if mine.get(key) != his.get(key)}
    assert differing == {"name", "resources"} and his["name"] == "kserve-container"
    scaled = one("gpu-kserve", "HorizontalPodAutoscaler", "get3d-triton")["spec"]["scaleTargetRef"]
    assert scaled["name"] == "get3d-predictor"


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(
        item["operator"] == "In" and labels.get(item["key"]) in item["values"]
        for item in selector.get("matchExpressions", [])
    )


def policies(name: str, labels: dict[str, str]) -> set[str]:
    return {
        manifest["metadata"]["name"].removeprefix("get3d-")
        for manifest in rendered(name)
        if manifest["kind"] == "NetworkPolicy" and selects(manifest["spec"]["podSelector"], labels)
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_network_policies_select_the_pods_they_are_for(name: str, tmp_path: Any) -> None:
    profile = load_profile(K8S / "overlays" / name / "cluster.yaml")
    triton = one(name, "Deployment", "get3d-triton")["spec"]["template"]["metadata"]["labels"]
    assert policies(name, triton) == {"default-deny", "dns", "triton"}
    step = {**profile.labels, "pipelines.kubeflow.org/v2_component": "true"}
    assert policies(name, step) == {"default-deny", "dns", "steps"}
    for job in training_jobs(profile, tmp_path):
        for pod in pod_templates(job):
            assert policies(name, pod["metadata"]["labels"]) == {"default-deny", "dns", "trainer"}
    assert policies("gpu", {"app": "anything"}) == {"default-deny", "dns"}


@pytest.mark.parametrize("name", [name for name in EVERYTHING if namespace_of(name) == "kubeflow"])
def test_pods_of_others_in_kubeflows_own_namespace_are_left_alone(name: str) -> None:
    """Also steps and trainings of others, and Kubeflow's drivers of ours: who is selected for one thing is denied the rest."""
    labels = {
        "app": "x",
        "pipelines.kubeflow.org/v2_component": "true",
        "torchx.pytorch.org/role-name": "trainer",
    }
    assert policies(name, labels) == set()


def training_jobs(profile: ClusterProfile, folder: Any) -> list[ClusterJob]:
    plain = dataclasses.asdict(profile)
    return [kind(spec(folder, plain)) for kind in (VolcanoJob, IndexedJob)]


def pod_templates(job: ClusterJob) -> list[Manifest]:
    what = job.manifests[0]["spec"]
    return [task["template"] for task in what["tasks"]] if "tasks" in what else [what["template"]]


@pytest.mark.parametrize("name", OVERLAYS)
def test_training_jobs_name_what_is_there(name: str, tmp_path: Any) -> None:
    profile = load_profile(K8S / "overlays" / name / "cluster.yaml")

    def names(kind: str) -> set[str]:
        return {m["metadata"]["name"] for m in rendered(name) if m["kind"] == kind}

    namespace = one(name, "Deployment", "get3d-triton")["metadata"]["namespace"]
    for job in training_jobs(profile, tmp_path):
        assert {manifest["metadata"]["namespace"] for manifest in job.manifests} == {namespace}
        if isinstance(job, VolcanoJob) and name == "gpu":
            assert job.manifests[0]["spec"]["queue"] in names("Queue")
        for pod in (template["spec"] for template in pod_templates(job)):
            assert pod["serviceAccountName"] in names("ServiceAccount")
            assert pod["priorityClassName"] in names("PriorityClass")
            claims = {
                volume["persistentVolumeClaim"]["claimName"]
                for volume in pod["volumes"]
                if "persistentVolumeClaim" in volume
            }
            assert claims == names("PersistentVolumeClaim")
            assert faults(pod, pod["containers"][0]) == []
            (models,) = [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/models"]
            assert models["readOnly"], "only `get3d deploy` writes there"
    volumes = one(name, "Deployment", "get3d-triton")["spec"]["template"]["spec"]["volumes"]
    token = next(volume["secret"]["secretName"] for volume in volumes if "secret" in volume)
    assert profile.triton_secret == token
    stored = {item.secret for item in profile.secret_env} | {token}
    external = {m["metadata"]["name"] for m in rendered("gpu-kserve") if m["kind"] == "ExternalSecret"}
    plain = {m["metadata"]["name"] for m in rendered("local-secrets") if m["kind"] == "Secret"}
    assert stored <= external and stored <= plain


@pytest.mark.parametrize("name", OVERLAYS)
def test_tags_are_the_package_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    profile = load_profile(K8S / "overlays" / name / "cluster.yaml")
    images = [container["image"] for _, _, container in containers(name)]
    for image in [*images, profile.image, profile.light_image]:
        assert image.rpartition(":")[2] == version, image
