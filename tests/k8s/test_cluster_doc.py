"""docs/cluster.md: its commands exist, with the options it gives them; its paths and names are in the manifests."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest
import yaml

from components.deploy.step import ALL_ADDRESSES
from components.sample import main as sample
from pipelines import command
from serving import probe
from tests.k8s.rendering import K8S, ROOT, kustomize, needs_kubectl, rendered

PAGE = (ROOT / "docs" / "cluster.md").read_text()
# Indented blocks and what stands in backticks.
CODE = "\n".join(
    [line.strip() for line in PAGE.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    + [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", PAGE)]
)


def test_paths_exist() -> None:
    paths = set(re.findall(r"(?:get3d/)?(k8s/[\w./-]+)", CODE)) | {
        f"k8s/{path}" for path in re.findall(r"`((?:overlays|components)/[\w./-]+)`", PAGE)
    }
    assert len(paths) >= 7
    for path in paths:
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([\w./-]+\.md)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^(?:\.venv/bin/)?get3d [a-z]+ .*$", CODE, re.M))))
def test_commands_take_their_options(line: str) -> None:
    words = shlex.split(line)[1:]
    adders = {"pipeline": command.add_arguments, "sample": sample.add_arguments, "probe": probe.add_arguments}
    parser = argparse.ArgumentParser(exit_on_error=False)
    adders[words[0]](parser)
    parsed = parser.parse_args(words[1:])
    profile = getattr(parsed, "profile", None)
    assert profile is None or (ROOT / profile).is_file()


@needs_kubectl
def test_names_exist() -> None:
    names = {m["metadata"]["name"] for name in ("local", "gpu", "gpu-kserve") for m in rendered(name)}
    said = set(
        re.findall(r"\b(get3d-(?:triton|prepare|pipeline|trainer|store|steps|dns)(?:-[a-z]+)*)\b", CODE)
    )
    assert {"get3d-pipeline", "get3d-triton-replicas", "get3d-prepare-volumes"} <= said
    assert said <= names
    (address,) = set(re.findall(r"dns:///([\w.-]+):(?:8001)", CODE))
    service = next(
        m for m in rendered("local") if m["kind"] == "Service" and m["metadata"]["name"] == address
    )
    assert service["spec"]["publishNotReadyAddresses"] and ALL_ADDRESSES == "dns:///"


@needs_kubectl
def test_the_line_that_keeps_the_volumes_removes_all_else() -> None:
    (kinds,) = re.findall(
        r"^kubectl -n kubeflow delete (\S+,\S+) -l app.kubernetes.io/part-of=get3d$", CODE, re.M
    )
    removed = {{"pdb": "poddisruptionbudget"}.get(kind, kind) for kind in kinds.split(",")}
    made = [manifest for manifest in rendered("local") if manifest["kind"] != "PersistentVolumeClaim"]
    assert removed == {manifest["kind"].lower() for manifest in made}
    assert {manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] for manifest in made} == {"get3d"}


@needs_kubectl
def test_an_overlay_of_your_own_renders(tmp_path: Path) -> None:
    """The page's, with KServe's lines and the component that stands last."""
    block = re.search(r"^ +# kustomization.yaml\n(.*?)\n\n", PAGE, re.S | re.M)[1]
    kserve = re.search(r"^( +- target: {kind: InferenceService}\n.*?)\n\n", PAGE, re.S | re.M)[1]
    text = textwrap.dedent(block).replace(
        "# - get3d/k8s/components/kubeflow-standalone      last",
        "- get3d/k8s/components/kubeflow-standalone # last",
    )
    own = yaml.safe_load(text)
    own["patches"] += yaml.safe_load(textwrap.dedent(kserve))
    own["components"].insert(
        own["components"].index("get3d/k8s/components/monitoring") + 1, "get3d/k8s/components/kserve"
    )
    shutil.copytree(K8S, tmp_path / "get3d" / "k8s")
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    made = list(yaml.safe_load_all(kustomize(tmp_path)))
    (service,) = [m for m in made if m["kind"] == "InferenceService"]
    (scaled,) = [m for m in made if m["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    assert scaled["spec"]["scaleTargetRef"]["name"] == f"{service['metadata']['name']}-predictor"
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].startswith("your.registry/get3d/serving:")
    claims = [m["spec"]["storageClassName"] for m in made if m["kind"] == "PersistentVolumeClaim"]
    assert claims == ["your-shared-storage"] * 2
    assert {m["metadata"].get("namespace", "kubeflow") for m in made} == {"kubeflow"}


def test_the_readme_leads_here() -> None:
    assert "docs/cluster.md" in Path(ROOT / "README.md").read_text()


def test_the_version_of_kubeflow_is_that_of_its_client() -> None:
    locked = re.search(r"^kfp==(.*)$", (ROOT / "requirements.lock").read_text(), re.M)[1]
    assert f"PIPELINE_VERSION={locked}\n" in PAGE
