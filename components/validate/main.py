"""`get3d validate`: checks everything a pipeline run is given, and writes the plan that its steps follow.

It needs no GPU and reads no mesh, so that a bad value fails in seconds and not after the data set was rendered.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from components.artifacts import PLAN_FILE, read_json, resolve_init_from, run_folder, table
from components.code_version import code_version
from components.deploy.step import ALL_ADDRESSES
from get3d_model.config import CONFIG_DIR, Config, config_from_dict, config_to_dict
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, sha256_json, write_json_atomic
from get3d_model.settings import read_yaml

METRICS_FILE = "metrics.json"
RECORD_FILE = "record.json"
MAX_SHARDS = 10_000
MAX_NODES = 1000
"""As the launcher has it, which loads TorchX (components/train/job_spec.py)."""
MAX_DEPLOY_TIMEOUT_S = 86_400
CONNECT_TIMEOUT_S = 3.0
PROMOTE = ("auto", "always", "never")
# Whose code decides a step's result. The two of data belong to each part and to the whole.
STEP_MODULES = {
    "meshes": ("components.synth.main",),
    "render": ("components.render.main", "components.data.main"),
    "train": ("components.train.main",),
    "evaluate": ("components.evaluate.main",),
    "export": ("components.export.main",),
}
_ADDRESS = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?:[0-9]{1,5}")


def read_params(text: str) -> dict[str, Any]:
    """Params from YAML, the path of a file, or the name of a preset; empty: the demo's. Raises InputError."""
    text = text.strip() or "demo"
    if "\n" not in text and ":" not in text:
        preset = CONFIG_DIR / f"{text}.yaml"
        path = preset if preset.is_file() else Path(text)
        try:
            data = read_yaml(path)
        except FileNotFoundError:
            presets = ", ".join(sorted(p.stem for p in CONFIG_DIR.glob("*.yaml")))
            raise InputError(
                f"params: {text!r} is neither YAML, nor a file, nor one of the presets {presets}"
            ) from None
    else:
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}" if mark else ""
            raise InputError(f"params: not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise InputError("params: must be a mapping of settings, as in params.yaml")
    return data


def with_overrides(params: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted names set, such as `training.r1_gamma`. Whether they exist is for the Config to say."""
    changed = {key: dict(value) if isinstance(value, dict) else value for key, value in params.items()}
    for name, value in overrides.items():
        section, _, rest = name.partition(".")
        if not rest:
            changed[section] = value
        elif not isinstance(changed.setdefault(section, {}), dict):
            raise InputError(f"overrides: {section} is no section, so {name} cannot be set")
        else:
            changed[section] = with_overrides(changed[section], {rest: value})
    return changed


def make_plan(args: argparse.Namespace) -> dict[str, Any]:
    """All that the steps need to know, with a folder of its own for every data set and training.

    A folder's name depends on everything that decides what it will hold: so a run that is repeated after a failure
    continues there, and another one never writes into it. Raises InputError.
    """
    overrides = dict(override(item) for item in args.set)
    params = with_overrides(read_params(args.params), overrides)
    config = config_from_dict(params, "params")
    _check_run(args, config)
    workspace = _workspace(args.workspace)
    revision = _revision(args.git_repository, args.git_revision)
    code = {f"{step}_code": code_version(*modules) for step, modules in STEP_MODULES.items()}
    if config.training.init_from is not None:
        # Other weights under the same name make another training.
        start = sha256_file(resolve_init_from(config.training.init_from))
        code["train_code"] = sha256_json([code["train_code"], start])[:16]
    meshes, fingerprint, synthetic = _meshes(args.meshes, config, workspace, code["meshes_code"])
    sections = config_to_dict(config)
    render = {key: sections[key] for key in ("render", "cameras")}
    # Which of its cameras' model is used shows in the training; the resolution must fit it.
    render["model"] = {"image_resolution": config.model.image_resolution}
    train = {key: sections[key] for key in ("name", "cameras", "model", "training")}
    train["render"] = {"resolution": config.render.resolution}
    evaluation = {key: sections[key] for key in ("evaluation", "evaluate") if key in sections}
    dataset_key = sha256_json([render, meshes, fingerprint, args.shards, code["render_code"]])[:16]
    training_key = sha256_json([dataset_key, train, args.nodes, args.procs_per_node, code["train_code"]])[:16]
    return {
        "run_id": args.run_id,
        "params": yaml.safe_dump(params, sort_keys=False),
        "meshes": meshes,
        "mesh_fingerprint": fingerprint,
        "synth_count": config.meshes.synth_count if synthetic else 0,
        "synth_seed": config.meshes.synth_seed,
        "shards": [f"{index}/{args.shards}" for index in range(args.shards)],
        "dataset": str(workspace / "datasets" / dataset_key),
        "training": str(workspace / "training" / training_key),
        "render_config": yaml.safe_dump(render, sort_keys=False),
        "train_config": yaml.safe_dump(train, sort_keys=False),
        "evaluation_config": yaml.safe_dump(evaluation, sort_keys=False),
        **_production(
            args.served_repository, config, workspace, sha256_json([training_key, evaluation, code])
        ),
        "serving_config": yaml.safe_dump({"serving": sections["serving"]}, sort_keys=False),
        "git_revision": revision,
        **code,
    }


def _production(served_repository: str, config: Config, workspace: Path, model: str) -> dict[str, str]:
    """Where the metrics of the model in production are kept, and those that this run's evaluation compares with.

    model: what identifies this run's model and evaluation. When it is in production already, the evaluation is asked
    for what it was asked for then, so that a run that is repeated finds it in the cache.
    """
    if not served_repository:
        return {
            "production": "",
            "production_metrics": "",
            "production_fingerprint": "",
            "production_record": "",
        }
    folder = workspace / "production" / sha256_json(served_repository)[:16]
    metrics, record = folder / METRICS_FILE, folder / RECORD_FILE
    compared = any(item.worse_than_production is not None for item in config.evaluation.thresholds)
    against = {"production_metrics": "", "production_fingerprint": ""}
    if compared and metrics.is_file():
        against = {"production_metrics": str(metrics), "production_fingerprint": sha256_file(metrics)[:16]}
        before = read_json(record) if record.is_file() else {}
        if before.get("model") == model:
            against = {key: str(before[key]) for key in against}
    return {
        "production": str(folder),
        **against,
        "production_record": json.dumps({"model": model, **against}, sort_keys=True),
    }


def describe(plan: dict[str, Any]) -> str:
    """The plan as Markdown."""
    source = f"{plan['synth_count']} procedural vehicles" if plan["synth_count"] else plan["meshes"]
    rows = {"meshes": source, "render jobs": len(plan["shards"])}
    rows |= {key: f"`{plan[key]}`" for key in ("dataset", "training")}
    rows |= {f"code of {key[:-5]}": f"`{plan[key]}`" for key in plan if key.endswith("_code")}
    return "\n\n".join([table(rows, ("", "")), f"```yaml\n{plan['params']}```"])


def override_lines(text: str) -> list[str]:
    """From lines `training.r1_gamma: 80` (or a JSON object) to the arguments of `--set`. Raises InputError.

    As text, because numbers of a JSON parameter reach a Kubeflow component as floats.
    """
    try:
        values = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise InputError("overrides must be lines such as `training.r1_gamma: 80`, or a JSON object")
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def override(item: str) -> tuple[str, Any]:
    """NAME and value of `--set NAME=VALUE`. Raises InputError."""
    name, equals, text = item.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {item!r} must be NAME=VALUE, such as training.r1_gamma=80")
    try:
        return name.strip(), yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {item!r}: the value is not valid YAML") from None


def _check_run(args: argparse.Namespace, config: Config) -> None:
    limits = (
        ("shards", 1, MAX_SHARDS), ("nodes", 1, MAX_NODES), ("procs_per_node", 1, 64),
        ("deploy_timeout_s", 1, MAX_DEPLOY_TIMEOUT_S),
    )  # fmt: skip
    for name, low, high in limits:
        value = getattr(args, name)
        if not low <= value <= high:
            raise InputError(f"{name} must be {low} to {high}, not {value}")
    processes = args.nodes * args.procs_per_node
    if config.training.batch_size % processes:
        raise InputError(
            f"training.batch_size {config.training.batch_size} cannot be shared by {processes} processes"
            f" (nodes {args.nodes} x procs_per_node {args.procs_per_node}); choose a multiple of {processes}"
        )
    if args.gpus < 0:
        raise InputError(f"gpus must be 0 (training on processors) or more, not {args.gpus}")
    if args.gpus and args.procs_per_node > args.gpus:
        raise InputError(
            f"procs_per_node {args.procs_per_node} is more than the {args.gpus} GPUs of a node; it must be at most {args.gpus}"
        )
    mounts = list(filter(None, args.volumes.split(":")))
    inside = [mount for mount in mounts if _is_inside(args.workspace, mount)]
    if mounts and not inside:
        raise InputError(
            f"workspace {args.workspace} is on no volume that every step mounts and may write to: it must be in"
            f" {', '.join(mounts)}"
        )
    if args.promote not in PROMOTE:
        raise InputError(f"promote must be {', '.join(PROMOTE)}, not {args.promote!r}")
    start = config.training.init_from
    if start is not None and not resolve_init_from(start).is_file():
        raise InputError(f"training.init_from: no such file: {start}; set it to null to start from nothing")
    run_folder(args.workspace, args.run_id)
    if bool(args.served_repository) != bool(args.triton_urls):
        missing = "triton_urls" if args.served_repository else "served_repository"
        raise InputError(f"{missing} is empty; deploying needs served_repository and triton_urls, or neither")
    for url in filter(None, args.triton_urls.split(",")):
        address = url.strip().removeprefix(ALL_ADDRESSES)
        if not _ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) < 65536:
            raise InputError(
                f"triton_urls must be HOST:PORT (dns:///HOST:PORT: all addresses of the name), separated by commas, not {url!r}"
            )
    if args.git_repository and "://" in args.meshes and not args.meshes.startswith("dvc://"):
        raise InputError(
            f"meshes {args.meshes} cannot be part of a version; give a folder or a dvc:// pointer, or no git_repository"
        )
    if args.git_repository and not args.git_revision:
        raise InputError(
            "git_revision is empty; give the commit or branch of git_repository that this run belongs to"
        )


def _is_inside(path: Path, folder: str) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder)


def _revision(repository: str, revision: str) -> str:
    """The commit that the run belongs to, whatever becomes of a branch meanwhile; empty where none is recorded."""
    if not repository:
        return ""
    from components.version.target import check_target

    try:
        return check_target(repository, revision)
    except InputError as error:
        raise InputError(f"the run could not be recorded as a version: {error}") from None


def _silent(urls: str) -> list[str]:
    """The servers that take no connection now. No error: they may be started meanwhile."""

    def answers(address: str) -> bool:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    addresses = [url.strip().removeprefix(ALL_ADDRESSES) for url in urls.split(",") if url.strip()]
    with ThreadPoolExecutor(16) as pool:
        return [
            name for name, there in zip(addresses, pool.map(answers, addresses), strict=True) if not there
        ]


def _workspace(path: Path) -> Path:
    if not path.is_absolute():
        raise InputError(f"workspace must be an absolute folder that every step sees, not {str(path)!r}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"workspace {path} cannot be made ({error.strerror}); mount the shared volume there"
        ) from None
    if not os.access(path, os.W_OK):
        raise InputError(f"workspace {path} is not writable; check the volume's mount and its group id")
    return path


def _meshes(given: str, config: Config, workspace: Path, synth_code: str) -> tuple[str, str, bool]:
    """(where they are, fingerprint, whether the vehicles are still to be made)."""
    if not given and config.meshes.path != type(config.meshes)().path:
        given = config.meshes.path
    if not given:
        facts = [config.meshes.synth_count, config.meshes.synth_seed, synth_code]
        key = sha256_json(facts)[:16]
        return str(workspace / "meshes" / f"vehicles-{key}"), key, True
    from components.validate.meshes import find_source

    source, fingerprint = find_source(given)
    return source, fingerprint, False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--params", default="params.yaml", help="params file, its text, or a preset's name")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, such as training.r1_gamma=80",
    )
    add(
        "--meshes",
        default="",
        help="folder or .zip with meshes, dvc://REPO@REVISION:PATH, or s3://...; empty: the params file's, or vehicles",
    )
    add("--workspace", type=Path, required=True, help="folder that every step sees: the shared volume")
    add("--shards", type=int, default=1, help="jobs that render, each a part of the meshes")
    add("--nodes", type=int, default=1, help="machines that train")
    add("--procs-per-node", type=int, default=1, help="training processes on each, one per GPU")
    add("--gpus", type=int, default=0, help="GPUs of a node; 0: trains on processors")
    add(
        "--volumes",
        default="",
        help="folders that every step mounts, with colons between; empty: no volumes, but this machine's disks",
    )
    add(
        "--served-repository",
        default="",
        help="model repository that Triton serves; empty: nothing is deployed",
    )
    add("--triton-urls", default="", help="HOST:PORT of every replica, separated by commas")
    add(
        "--deploy-timeout-s",
        type=int,
        default=300,
        help="seconds that one step of deploying may take on one server",
    )
    add(
        "--promote",
        default="auto",
        help=f"{', '.join(PROMOTE)}: who decides about deploying, the gate or you",
    )
    add("--git-repository", default="", help="git repository that the version is recorded in; empty: none is")
    add("--git-revision", default="", help="commit or branch that this run belongs to")
    add("--run-id", default="manual", help="name of this run")
    add("--out", type=Path, help=f"folder for a copy of {PLAN_FILE}, which is in WORKSPACE/runs/RUN_ID")


def run(args: argparse.Namespace) -> None:
    """Writes the plan. Raises InputError for the first thing that is wrong."""
    plan = make_plan(args)
    if args.out is not None:
        write_json_atomic(args.out / PLAN_FILE, plan)
    # For the exit handler, which sees no output of another step.
    write_json_atomic(run_folder(args.workspace, args.run_id) / PLAN_FILE, plan)
    print(f"data set {plan['dataset']}, training {plan['training']}, {args.shards} shards", flush=True)
    if silent := _silent(args.triton_urls):
        waits = f"deploying will wait {args.deploy_timeout_s} s for each"
        print(f"warning: no server answers at {', '.join(silent)} now; {waits}", flush=True)


main = command_main("get3d validate", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
