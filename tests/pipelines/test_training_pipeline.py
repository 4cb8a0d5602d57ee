"""The compiled pipeline: a golden file that shows every change, and what must hold of it."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cluster_profile import load_profile, profile_from_dict
from get3d_model.errors import InputError
from pipelines.compile import compile_pipeline
from pipelines.training_pipeline import PipelineOptions

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "get3d-training.yaml"
PROFILE = ROOT / "tests" / "golden" / "cluster.yaml"
UPDATE = f"get3d pipeline compile --profile {PROFILE.relative_to(ROOT)} --out {GOLDEN.relative_to(ROOT)}"


class Compiled:
    """A compiled pipeline, with its tasks by name wherever they stand."""

    def __init__(self, path: Path) -> None:
        self.spec, *rest = yaml.safe_load_all(path.read_text())
        self.kubernetes: dict[str, Any] = (
            rest[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if rest else {}
        )
        graphs = {"": self.spec["root"], **self.spec["components"]}
        self.tasks = {
            name: {**task, "graph": graph}
            for graph, component in graphs.items()
            for name, task in component.get("dag", {}).get("tasks", {}).items()
        }

    def component(self, task: str) -> dict[str, Any]:
        return self.spec["components"][self.tasks[task]["componentRef"]["name"]]

    def executor(self, task: str) -> dict[str, Any]:
        label = self.component(task)["executorLabel"]
        return {
            **self.spec["deploymentSpec"]["executors"][label]["container"],
            **self.kubernetes.get(label, {}),
        }

    @property
    def steps(self) -> list[str]:
        return [name for name in self.tasks if "executorLabel" in self.component(name)]


@pytest.fixture(scope="module")
def golden() -> Compiled:
    return Compiled(GOLDEN)


def test_the_compiled_pipeline_is_the_golden_file(tmp_path: Path) -> None:
    options = PipelineOptions(profile=load_profile(PROFILE), scheduler="kubernetes", workspace="/data")
    made = compile_pipeline(tmp_path / "pipeline.yaml", options).read_text().splitlines()
    change = "\n".join(
        difflib.unified_diff(GOLDEN.read_text().splitlines(), made, "golden", "compiled", lineterm="")
    )
    assert not change, f"if this change is wanted: {UPDATE}\n{change}"


def test_the_golden_file_says_what_one_would_upload(golden: Compiled) -> None:
    assert golden.spec["pipelineInfo"]["name"] == "get3d-training"
    assert set(golden.steps) == {
        "validate", "prepare-meshes", "render", "merge", "train", "evaluate", "gate", "export", "deploy", "version",
        "version-2", "finish",
    }  # fmt: skip


def test_every_parameter_is_described_typed_and_has_a_default(golden: Compiled) -> None:
    parameters = golden.spec["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) > 10
    for name, parameter in parameters.items():
        assert parameter["description"].endswith("."), name
        assert "defaultValue" in parameter, name
    for step in golden.steps:
        inputs = golden.component(step).get("inputDefinitions", {})
        for kind in ("parameters", "artifacts"):
            for name, item in inputs.get(kind, {}).items():
                described = item.get("description") or item.get("parameterType") == "TASK_FINAL_STATUS"
                assert described, f"{step}: {name}"
        for items in golden.component(step).get("outputDefinitions", {}).values():
            for name, item in items.items():
                assert item.get("description"), f"{step}: {name}"


def test_artifacts_have_the_types_that_the_ui_shows(golden: Compiled) -> None:
    def types(step: str) -> dict[str, str]:
        outputs = golden.component(step)["outputDefinitions"]["artifacts"]
        return {
            name: item["artifactType"]["schemaTitle"].removeprefix("system.")
            for name, item in outputs.items()
        }

    assert types("merge") == {"dataset": "Dataset", "metrics": "Metrics", "summary": "Markdown"}
    assert types("train") == {"model": "Model", "metrics": "Metrics", "summary": "Markdown"}
    assert types("evaluate") == {
        "evaluation": "Artifact", "metrics": "Metrics", "report": "HTML", "summary": "Markdown",
    }  # fmt: skip
    assert types("export")["repository"] == "Model"


def test_the_graph(golden: Compiled) -> None:
    tasks = golden.tasks
    assert tasks["finish"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert tasks["finish"]["dependentTasks"] == ["exit-handler-1"]
    depends = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert "validate" in depends["prepare-meshes"]
    assert {"prepare-meshes", "validate"} <= depends["render-dataset"]
    assert depends["merge"] == {"for-loop-1"}
    assert "render-dataset" in depends["train"] and "train" in depends["evaluate"]
    assert depends["gate"] == {"evaluate", "validate"} and "gate" in depends["condition-branches-2"]
    assert "export" in depends["deploy"] and {"export", "deploy"} <= depends["version"]
    loop = tasks["for-loop-1"]["parameterIterator"]["items"]["inputParameter"]
    assert "shards" in loop
    promoted, held = (tasks[name]["triggerPolicy"]["condition"] for name in ("condition-3", "condition-4"))
    assert "gate-decision'] == 'promote'" in promoted and held.startswith("!(")
    assert (
        tasks["export"]["graph"]
        == tasks["deploy"]["graph"]
        == tasks["version"]["graph"]
        == "comp-condition-3"
    )
    assert tasks["version-2"]["graph"] == "comp-condition-4"


def test_caching_and_retries_are_where_they_are_safe(golden: Compiled) -> None:
    cached = {
        step for step in golden.steps if golden.tasks[step].get("cachingOptions", {}).get("enableCache")
    }
    assert cached == {"prepare-meshes", "render", "merge", "train", "evaluate", "export"}
    for step in cached:
        # Without it, a step would be taken from the cache after its code has changed.
        assert "code" in golden.tasks[step]["inputs"]["parameters"], step
    retried = {
        step for step in golden.steps if golden.tasks[step].get("retryPolicy", {}).get("maxRetryCount")
    }
    assert retried == cached | {"version", "version-2"}


def test_the_cluster_profile_reaches_every_step(golden: Compiled) -> None:
    for step in golden.steps:
        executor = golden.executor(step)
        light = step.partition("-")[0] in ("validate", "gate", "deploy", "version", "finish")
        assert executor["image"] == f"registry.example.com/get3d{'-light' if light else ''}:1.4", step
        assert executor["imagePullSecret"][0]["secretName"] == "registry"
        assert [(m["constant"], m["mountPath"]) for m in executor["pvcMount"]] == [("get3d", "/data")]
        # Who may load models may run code on the server: one step only.
        token = {"triton"} if step == "deploy" else set()
        assert {s["secretName"] for s in executor["secretAsEnv"]} == {"object-store", "git"} | token
        assert executor["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
        assert {"name": "GET3D_CACHE", "value": "/data/cache"} in executor["env"]
        assert executor["securityContext"]["runAsUser"] == "1000"
    # The job that Volcano starts has the GPUs; the launcher only waits for it.
    with_gpu = {step for step in golden.steps if "accelerator" in golden.executor(step)["resources"]}
    assert with_gpu == {"evaluate"}
    assert golden.executor("evaluate")["nodeSelector"]["labels"] == {
        "pool": "training", "nvidia.com/gpu.product": "NVIDIA-H200",
    }  # fmt: skip
    passed = golden.tasks["train"]["inputs"]["parameters"]
    assert passed["scheduler"]["runtimeValue"]["constant"] == "kubernetes"
    again = profile_from_dict(yaml.safe_load(passed["profile"]["runtimeValue"]["constant"]))
    assert again == load_profile(PROFILE)


def test_training_inside_the_step_takes_a_whole_node(tmp_path: Path) -> None:
    options = PipelineOptions(profile=load_profile(PROFILE), scheduler="local_cwd", workspace="/data")
    train = Compiled(compile_pipeline(tmp_path / "pipeline.yaml", options)).executor("train")
    assert train["resources"]["accelerator"]["resourceCount"] == "8"
    assert train["resources"]["resourceMemoryLimit"] == "512Gi"
    assert train["emptyDirMounts"][0]["sizeLimit"] == "64Gi"
    assert train["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_validation_knows_the_training_nodes_and_the_volumes(golden: Compiled) -> None:
    """What would stop the launcher after the rendering stops the first step."""
    given = golden.tasks["validate"]["inputs"]["parameters"]
    profile = load_profile(PROFILE)
    assert given["gpus"]["runtimeValue"]["constant"] == profile.gpu.count > 0
    assert given["volumes"]["runtimeValue"]["constant"] == "/data"


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="scheduler must be one of local_cwd, kubernetes, indexed-job"):
        PipelineOptions(scheduler="slurm")
    with pytest.raises(InputError, match="starts a job on a cluster"):
        PipelineOptions(scheduler="kubernetes")
    with pytest.raises(InputError, match="workspace must be an absolute folder"):
        PipelineOptions(workspace="data")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "file").touch()
    for out in ("folder.yaml", "file/pipeline.yaml"):
        with pytest.raises(InputError, match=rf"--out .*{out}: cannot be written"):
            compile_pipeline(tmp_path / out, PipelineOptions())


def test_it_compiles_without_torch(tmp_path: Path) -> None:
    """Where pipelines are compiled and submitted nothing else of this project need be installed but kfp."""
    program = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; from pipelines import cli;"
        " sys.exit(cli.main(['pipeline', 'compile', '--out', sys.argv[1]]))"
    )
    out = tmp_path / "pipeline.yaml"
    done = subprocess.run(
        [sys.executable, "-c", program, str(out)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert Compiled(out).spec["pipelineInfo"]["name"] == "get3d-training"


def test_every_pod_knows_the_run_that_its_records_belong_to(golden: Compiled) -> None:
    for step in golden.steps:
        (field,) = golden.executor(step)["fieldPathAsEnv"]
        assert field == {"name": "GET3D_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
