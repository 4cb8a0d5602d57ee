"""The Kubeflow interface of deploying: a version goes to the Triton servers that run, or they keep the old one."""

from typing import NamedTuple

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def deploy(
    repository: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    deployment: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    served_repository: str = "",
    triton_urls: str = "",
    timeout_s: int = 300,
    production: str = "",
    production_record: str = "",
) -> NamedTuple("Deployment", [("outcome", str), ("version", int)]):
    """Rolls the model out to running servers; a failed smoke test rolls it back and fails this step.

    Args:
        repository: The exported model repository.
        evaluation: The model's metrics, which later models are compared with.
        served_repository: Model repository that Triton serves; empty when nothing is deployed.
        triton_urls: HOST:PORT of every replica's gRPC, separated by commas.
        timeout_s: Seconds that one step may take on one server.
        production: Where the metrics of the model in production are kept, on the shared volume.
        production_record: What is kept beside them: which model it is, and what it was compared with.

    Returns:
        deployment: Folder with deploy.json: outcome, version, previous version, reason.
        summary: The same for people.
        outcome: deployed, or skipped where no server is configured.
        version: Version that is now served; 0 for none.
    """
    from components import artifacts
    from components.deploy import step

    with artifacts.one_line_errors("deploy"):
        result = step.deploy(repository.path, served_repository, triton_urls, timeout_s, deployment.path)
        step.keep_metrics(evaluation.path, production, production_record)
    artifacts.write_summary(
        summary.path, f"Deployment: {result['outcome']}", artifacts.table(step.shown(result))
    )
    return artifacts.named_outputs({"outcome": result["outcome"], "version": int(result.get("version") or 0)})
