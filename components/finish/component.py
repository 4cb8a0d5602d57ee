"""The Kubeflow interface of the exit handler: it runs last, whatever became of the run."""

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def finish(
    status: dsl.PipelineTaskFinalStatus,
    run_id: str,
    job_id: str,
    workspace: str,
    summary: dsl.Output[dsl.Markdown],
    scheduler: str = "local_cwd",
    profile: str = "",
):
    """Records the outcome of the run, and stops a training job that still runs after a failure.

    Args:
        status: What became of the steps.
        run_id: Name of this run; empty for job_id.
        job_id: Kubeflow's own id of the run.
        workspace: Folder that every step sees, on the shared volume.
        scheduler: Where training ran.
        profile: Cluster profile as YAML.

    Returns:
        summary: The outcome.
    """
    from components import artifacts
    from components.finish import main

    name = run_id or job_id
    with artifacts.one_line_errors("finish"), artifacts.params_file(profile) as profile_file:
        arguments = [
            "--workspace",
            workspace,
            "--run-id",
            name,
            "--state",
            status.state,
            "--scheduler",
            scheduler,
        ]
        arguments += ["--error", f"{status.error_code or ''} {status.error_message or ''}".strip()]
        if profile:
            arguments += ["--profile", profile_file]
        artifacts.call(main.main, *arguments)
        outcome = main.read_outcome(workspace, name)
    artifacts.write_summary(summary.path, f"Run {name}: {outcome['state']}", artifacts.table(outcome))
