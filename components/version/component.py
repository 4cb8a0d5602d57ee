"""The Kubeflow interface of versions: what the run produced is committed to DVC and git."""

from typing import NamedTuple

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def version(
    run_id: str,
    params: str,
    meshes: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    repository: dsl.Input[dsl.Model] = None,
    outcome: str = "held",
    git_repository: str = "",
    git_revision: str = "",
) -> NamedTuple("Version", [("branch", str), ("commit", str)]):
    """Commits parameters, data set, checkpoints, metrics and exported model to DVC, on a git branch of the run.

    Args:
        run_id: Name of this run; the branch is runs/RUN_ID.
        params: Params text of the run.
        meshes: Folder or .zip with the meshes.
        dataset: Pointer to the rendered data set.
        model: The trained generator; its metadata name the training's folder.
        evaluation: What the evaluation wrote.
        repository: The exported model repository; none where the model was held.
        outcome: What the deployment did, or held.
        git_repository: Repository to record into; empty for none.
        git_revision: Commit or branch that this run belongs to.

    Returns:
        record: Folder with version.json: branch and commit.
        summary: The same for people.
        branch: Git branch of the run; empty where no repository is configured.
        commit: Its commit.
    """
    from components import artifacts
    from components.version import step

    with artifacts.one_line_errors("version"), artifacts.params_file(params) as params_path:
        outputs = step.outputs(
            meshes, dataset.path, model.metadata, evaluation.path, repository and repository.path
        )
        result = step.record(git_repository, git_revision, run_id, params_path, outputs, record.path)
    shown = {**result, "deployment": outcome}
    artifacts.write_summary(summary.path, f"Version of run {run_id}", artifacts.table(shown))
    return artifacts.named_outputs({key: str(result.get(key) or "") for key in ("branch", "commit")})
