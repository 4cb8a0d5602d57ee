"""The cluster profile: strict, with messages that name the key, the value and the fix."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.cluster_profile import ClusterProfile, load_profile, profile_from_dict, quantity_bytes
from get3d_model.errors import InputError

FULL = """
namespace: team-a
image: registry.example.com/get3d:1.4
image_pull_secrets: [registry]
service_account: trainer
gpu: {count: 8, type: NVIDIA-H200}
cpu: 0.5
memory: 64Gi
shm_size: 16Gi
node_selector: {pool: gpu}
tolerations:
  - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
pvcs:
  - {claim: get3d, path: /data}
  - {claim: scratch, path: /scratch, read_only: true, sub_path: a/b}
env: {NCCL_DEBUG: WARN}
secret_env:
  - {secret: store, key: id, env: AWS_ACCESS_KEY_ID}
queue: research
priority_class: batch
max_retries: 5
labels: {team: a}
"""


def test_a_whole_profile(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(FULL)
    profile = load_profile(path)
    assert profile.gpu.resource == "nvidia.com/gpu" and profile.cpu_text == "500m"
    assert profile.whole_node_selector == {"pool": "gpu", "nvidia.com/gpu.product": "NVIDIA-H200"}
    assert profile.memory_mb == 64 * 2**30 // 10**6
    assert [mount.path for mount in profile.pvcs] == ["/data", "/scratch"]
    assert profile_from_dict(dataclasses.asdict(profile)) == profile
    assert profile_from_dict(yaml.safe_load(yaml.safe_dump({"image": "a"}))) == ClusterProfile("a")


def test_without_gpus_their_type_selects_no_node() -> None:
    assert profile_from_dict({"image": "a", "gpu": {"type": "X"}}).whole_node_selector == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imge": "x"}, "unknown setting imge; did you mean image?"),
        ({"gpu": {"cont": 1}}, "unknown setting gpu.cont; did you mean count?"),
        ({"image": None}, "image must be str, not None"),
        ({"gpu": {"count": -1}}, "gpu.count must be 0 or more, not -1"),
        ({"memory": "64 gigabytes"}, "memory must be an amount of memory such as 64Gi, not '64 gigabytes'"),
        ({"memory": "0"}, "memory must be an amount"),
        ({"memory": "1Gi"}, "shm_size (8Gi) must not be more than memory (1Gi)"),
        ({"namespace": "Team_A"}, "namespace must be a Kubernetes name"),
        ({"queue": "q" * 64}, "queue must be a Kubernetes name"),
        ({"image_pull_secrets": "one"}, "image_pull_secrets must be a list, not 'one'"),
        ({"image_pull_secrets": [1]}, "image_pull_secrets[0] must be str, not 1"),
        ({"node_selector": {"a": 1}}, "node_selector must be a mapping of texts to texts (quote numbers)"),
        ({"labels": {"a b": "c"}}, "labels.a b must be a label"),
        ({"pvcs": [{"claim": "a"}]}, "pvcs[0].path is missing; set it"),
        ({"pvcs": [{"claim": "a", "path": "data"}]}, "pvcs[0].path must be an absolute folder, not 'data'"),
        ({"pvcs": [{"claim": "a", "path": "/d"}, {"claim": "b", "path": "/d/"}]}, "two mounts at /d"),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "tolerations[0].effect must be NoSchedule"),
        ({"tolerations": [{}]}, "tolerations[0].key must be given"),
        ({"secret_env": [{"secret": "a", "key": "b", "env": "1A"}]}, "secret_env[0].env must be the name"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy must be Always, IfNotPresent, Never"),
        ({"cpu": 0}, "cpu must be positive"),
        ({"env": {"A-B": "c"}}, "env.A-B is not the name of a variable"),
    ],
)
def test_what_is_wrong_is_named(change: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        profile_from_dict({"image": "a", **change}, "p.yaml")
    assert str(error.value).startswith("p.yaml: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such cluster profile"):
        load_profile(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InputError, match=r"image is missing"):
        load_profile(tmp_path / "empty.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"not valid YAML at line"):
        load_profile(tmp_path / "bad.yaml")


def test_amounts() -> None:
    assert [quantity_bytes(text) for text in ("1Ki", "2M", "1.5Gi", "7")] == [1024, 2_000_000, 3 * 2**29, 7]
    for text in ("", "Gi", "-1Gi", "1GB", "1e3"):
        with pytest.raises(ValueError):
            quantity_bytes(text)


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, components.cluster_profile; print([m for m in ('torch','kfp','kubernetes') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
