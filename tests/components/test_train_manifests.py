"""The manifests of training jobs: golden files show every change; each is checked against the cluster's own schemas.

`GET3D_UPDATE_GOLDEN=1 pytest tests/components/test_train_manifests.py` writes the golden files anew.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.train.cluster_job import ClusterJob
from components.train.indexed_job import IndexedJob
from components.train.job_spec import NAME_LENGTH, job_name
from components.train.launch import main
from components.train.volcano import VolcanoJob
from tests.commands import refusal
from tests.components.train_profiles import FULL, MINIMAL, spec, write_profile
from tests.get3d_model.training.tiny import tiny_config, write_params

GOLDEN = Path(__file__).parent.parent / "golden" / "train"
CRD = Path(__file__).parent.parent.parent.parent / "shared" / "crds" / "volcano-job.yaml"
KINDS: dict[str, type[ClusterJob]] = {"volcano": VolcanoJob, "indexed-job": IndexedJob}
PROFILES = {"full": FULL, "minimal": MINIMAL}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", KINDS)
def test_golden(kind: str, profile: str, tmp_path: Path) -> None:
    text = KINDS[kind](spec(tmp_path, PROFILES[profile]), suffix="abc123").describe()
    # The version of TorchX is a label of its pods.
    text = re.sub(r"(torchx.pytorch.org/version: ).*", r"\1VERSION", text)
    path = GOLDEN / f"{kind}-{profile}.yaml"
    if os.environ.get("GET3D_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@functools.cache
def schema_of(crd: Path) -> dict[str, Any]:
    """A CRD's schema, made strict: properties that it does not name are an error unless it says otherwise."""
    (version,) = yaml.load(crd.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]

    def tighten(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                tighten(item)
        if not isinstance(node, dict):
            return
        if node.get("x-kubernetes-int-or-string"):
            node.pop("anyOf", None)
            node["type"] = ["integer", "string"]
        elif node.get("nullable") and isinstance(node.get("type"), str):
            node["type"] = [node["type"], "null"]
        if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
        for value in node.values():
            tighten(value)

    tighten(schema["properties"])
    schema["properties"]["metadata"] = {"type": "object"}
    schema["additionalProperties"] = False
    return schema


@pytest.mark.skipif(not CRD.is_file(), reason=f"needs {CRD.name}, the definition of Volcano's Job")
@pytest.mark.parametrize("profile", PROFILES)
def test_volcano_accepts_its_job(profile: str, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema_of(CRD))
    (job,) = VolcanoJob(spec(tmp_path, PROFILES[profile])).manifests
    assert [error.message for error in validator.iter_errors(job)] == []
    # The check can fail.
    for change in ({"queu": "x"}, {"minAvailable": "two"}, {"policies": [{"event": "PodDied"}]}):
        wrong = {**job, "spec": {**job["spec"], **change}}
        assert list(validator.iter_errors(wrong)), change
    job["spec"]["tasks"][0]["template"]["spec"]["tolerationz"] = []
    assert list(validator.iter_errors(job))


def check_builtin(manifest: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(manifest, "1.32", strict=True)


@pytest.mark.parametrize("profile", PROFILES)
def test_kubernetes_accepts_job_service_and_pods(profile: str, tmp_path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    manifests = IndexedJob(spec(tmp_path, PROFILES[profile])).manifests
    for manifest in manifests:
        check_builtin(manifest)
    # Volcano's tasks hold pod templates, which its own definition checks too.
    (volcano,) = VolcanoJob(spec(tmp_path, PROFILES[profile])).manifests
    for task in volcano["spec"]["tasks"]:
        metadata = {"name": "a", **task["template"]["metadata"]}
        check_builtin({"apiVersion": "v1", "kind": "Pod", **task["template"], "metadata": metadata})
    manifests[0]["spec"]["backoffLimits"] = 1
    with pytest.raises(validate.ValidationError):
        check_builtin(manifests[0])


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")
def test_kubectl_reads_what_dry_run_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_config(1))
    profile = write_profile(tmp_path / "profile.yaml", {**FULL, "gpu": {"count": 2}})
    words = ["--config", str(params), "--data", "s3://b/s", "--out", "/data/runs/a"]
    words += ["--scheduler", "indexed-job", "--profile", str(profile), "--nodes", "2", "--dry-run"]
    assert main(words) == 0
    (tmp_path / "resources.yaml").write_text(capsys.readouterr().out)
    (tmp_path / "kustomization.yaml").write_text("resources: [resources.yaml]\n")
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    job, service = sorted(yaml.safe_load_all(done.stdout), key=lambda manifest: manifest["kind"])
    assert (job["kind"], service["kind"]) == ("Job", "Service")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    # One process per GPU of the profile; 90 % of its scratch volume.
    assert "--nproc_per_node 2" in container["command"][2] and "--cache-gb 96.637" in container["command"][2]


@pytest.mark.parametrize("base", ["a", "x" * 100, "Runs/Ünïcode of July!", "9lives", "", "a-" * 60])
def test_names_keep_to_63_letters_and_differ(base: str, tmp_path: Path) -> None:
    names = {job_name(base) for _ in range(50)}
    assert len(names) == 50
    for name in names:
        assert (
            len(name) <= NAME_LENGTH and re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", name) and "--" not in name
        )
        # What Volcano and the Job controller make of it, with a thousand pods.
        assert max(len(f"{name}-trainer-999-0"), len(f"{name}-999-abcde")) <= 63
    assert (
        job_name("x" * 99 + "a", "s").rpartition("-")[0] != job_name("x" * 99 + "b", "s").rpartition("-")[0]
    )
    job = IndexedJob(spec(tmp_path, MINIMAL, name=base or "x"))
    assert job.manifests[0]["metadata"]["name"] == job.manifests[1]["metadata"]["name"] == job.name


def test_equal_jobs_are_known_by_their_mark(tmp_path: Path) -> None:
    def mark(kind: type[ClusterJob], **changes: Any) -> str:
        return kind(spec(tmp_path, FULL, **changes)).manifests[0]["metadata"]["annotations"]["get3d/spec"]

    for kind in KINDS.values():
        assert mark(kind) == mark(kind) != mark(kind, data="s3://bucket/other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--profile", "none.yaml"], "none.yaml: no such cluster profile"),
        (["--out", "outputs/train"], "--out must be an absolute folder on a volume of the pods"),
        (["--out", "/scratch/a"], r"--out /scratch/a is on no volume of the pods; .* mounts /data, /weights"),
        (["--out", "/weights/a"], r"--out /weights/a is on a volume that .* mounts read-only"),
        (["--data", "/elsewhere"], "--data /elsewhere is on no volume of the pods"),
        (["--procs-per-node", "8"], "--procs-per-node 8 is more than the 4 GPUs of a pod"),
        (["--nodes", "0"], "--nodes must be 1 to 1000, not 0"),
        (["--cache-gb", "-1"], "--cache-gb must be above 0, not -1; for the default leave it out"),
        (["--cache-gb", "nan"], "--cache-gb must be above 0, not nan"),
        (["--cache-gb", "0"], "--cache-gb must be above 0, not 0"),
        (["--nodes", "3"], r"training.batch_size 4 does not divide over 3 x 4 processes"),
        (["--timeout-s", "0"], "--timeout-s must be positive, not 0"),
        (["--timeout-s", "nan"], "--timeout-s must be positive, not nan"),
        (["--procs-per-node", "0"], "--procs-per-node must be at least 1, not 0"),
        (["--out", "/data/../a"], "--out /data/../a is on no volume of the pods"),
        (["--max-retries", "-1"], "--max-retries must be 0 or more"),
        (["--config", "no.yaml"], "no such params file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_submitted(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_config(1))
    profile = write_profile(tmp_path / "profile.yaml", FULL)
    words = ["--config", params, "--data", "/data/set", "--out", "/data/runs/a", "--scheduler", "kubernetes"]
    said = refusal(main, [*words, "--profile", profile, "--dry-run", *change], capsys)
    assert re.search(message, said)


def test_a_cluster_needs_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_config(1))
    words = ["--config", params, "--data", "s3://a/b", "--out", "/data/a", "--scheduler", "kubernetes"]
    assert "--scheduler kubernetes needs --profile" in refusal(main, words, capsys)
    words = ["--config", params, "--data", "nowhere", "--out", tmp_path / "out"]
    assert "the data set folder nowhere does not exist" in refusal(main, words, capsys)
