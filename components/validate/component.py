"""The Kubeflow interface of the first step: parameters are checked, and the plan of the run is made."""

from typing import NamedTuple

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def validate(
    run_id: str,
    job_id: str,
    workspace: str,
    summary: dsl.Output[dsl.Markdown],
    params: str = "demo",
    overrides: str = "",
    meshes: str = "",
    shards: int = 1,
    nodes: int = 1,
    procs_per_node: int = 1,
    gpus: int = 0,
    volumes: str = "",
    deploy_timeout_s: int = 300,
    promote: str = "auto",
    served_repository: str = "",
    triton_urls: str = "",
    git_repository: str = "",
    git_revision: str = "",
) -> NamedTuple(
    "Plan",
    [
        ("run_id", str),
        ("params", str),
        ("meshes", str),
        ("mesh_fingerprint", str),
        ("synth_count", int),
        ("synth_seed", int),
        ("shards", list),
        ("dataset", str),
        ("training", str),
        ("render_config", str),
        ("train_config", str),
        ("evaluation_config", str),
        ("production", str),
        ("production_metrics", str),
        ("production_fingerprint", str),
        ("production_record", str),
        ("serving_config", str),
        ("git_revision", str),
        ("meshes_code", str),
        ("render_code", str),
        ("train_code", str),
        ("evaluate_code", str),
        ("export_code", str),
    ],
):
    """Checks every parameter before anything expensive starts, and gives each data set and training its folder.

    Args:
        run_id: Name of this run; empty for job_id.
        job_id: Kubeflow's own id of the run.
        workspace: Folder that every step sees, on the shared volume.
        params: Params file as text, the name of a preset, or a path; empty for the demo's.
        overrides: Settings to change, a line each (or JSON), such as training.r1_gamma: 80.
        meshes: Folder or .zip with meshes; empty for the params file's, or procedural vehicles.
        shards: Jobs that render, each a part of the meshes.
        nodes: Machines that train.
        procs_per_node: Training processes on each, one per GPU.
        gpus: GPUs of a node; 0 where training runs on processors.
        volumes: Folders that every step mounts, with colons between; empty on one machine.
        deploy_timeout_s: Seconds that one step of deploying may take on one server.
        promote: auto (the gate decides), always or never.
        served_repository: Model repository that Triton serves; empty when nothing is deployed.
        triton_urls: HOST:PORT of every Triton replica, separated by commas.
        git_repository: Repository that the version is recorded in; empty for none.
        git_revision: Commit or branch that this run belongs to.

    Returns:
        summary: What the run will do.
        run_id: Name of this run.
        params: The whole params file, overrides included.
        meshes: Folder or .zip with the meshes.
        mesh_fingerprint: Changes when the meshes change.
        synth_count: Vehicles to make; 0 where the meshes are there already.
        synth_seed: Their seed.
        shards: I/N of every render job.
        dataset: Folder of the data set.
        training: Folder of the training.
        render_config: What decides the pictures.
        train_config: What decides the training.
        evaluation_config: What decides the evaluation.
        production: Where the metrics of the model in production are kept.
        production_metrics: Those metrics, where thresholds compare with them.
        production_fingerprint: Changes with them.
        production_record: What is kept beside them when this run's model goes into production.
        serving_config: What decides the export.
        git_revision: The commit that this run belongs to.
        meshes_code: Version of that step's code.
        render_code: Version of that step's code.
        train_code: Version of that step's code, and of the weights that it starts from.
        evaluate_code: Version of that step's code.
        export_code: Version of that step's code.
    """
    import tempfile
    from pathlib import Path

    from components import artifacts
    from components.validate import main

    with artifacts.one_line_errors("validate"), tempfile.TemporaryDirectory() as folder:
        arguments = [
            "--params",
            params,
            "--workspace",
            workspace,
            "--run-id",
            run_id or job_id,
            "--out",
            folder,
        ]
        arguments += [
            "--shards",
            shards,
            "--nodes",
            nodes,
            "--procs-per-node",
            procs_per_node,
            "--gpus",
            gpus,
            "--volumes",
            volumes,
        ]
        arguments += ["--deploy-timeout-s", deploy_timeout_s, "--promote", promote, "--meshes", meshes]
        arguments += ["--served-repository", served_repository, "--triton-urls", triton_urls]
        arguments += ["--git-repository", git_repository, "--git-revision", git_revision]
        arguments += [f"--set={line}" for line in main.override_lines(overrides)]
        artifacts.call(main.main, *arguments)
        plan = artifacts.read_json(Path(folder) / artifacts.PLAN_FILE)
    artifacts.write_summary(summary.path, f"Plan of {plan['run_id']}", main.describe(plan))
    return artifacts.named_outputs(plan)
