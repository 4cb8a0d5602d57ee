"""The Kubeflow interface of training: launches the job, waits for it, and hands over the trained generator."""

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def train(
    dataset: dsl.Input[dsl.Dataset],
    folder: str,
    config: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    nodes: int = 1,
    procs_per_node: int = 1,
    scheduler: str = "local_cwd",
    profile: str = "",
    code: str = "",
):
    """Trains GET3D on one or several machines; continues from the newest checkpoint in its folder.

    Args:
        dataset: Pointer to the rendered data set.
        folder: For checkpoints, image grids and logs; on the shared volume.
        config: Params text with the sections cameras, model and training.
        nodes: Machines.
        procs_per_node: Processes on each, one per GPU.
        scheduler: local_cwd (in this pod), kubernetes (a Volcano job) or indexed-job.
        profile: Cluster profile as YAML; needed for a job of its own.
        code: Version of this step's code.

    Returns:
        model: The trained generator, as one weight file that describes itself.
        metrics: The last figures of training and the best validation.
        summary: What was trained, with pictures of fixed seeds.
    """
    from components import artifacts
    from components.train import step

    with artifacts.one_line_errors("train"):
        data = artifacts.read_pointer(dataset.path)
        step.launch(folder, config, data, nodes, procs_per_node, scheduler, profile)
        result = step.collect(folder, model.path)
    model.metadata.update({**result.facts, "dataset": str(data), **step.identity(dataset.metadata)})
    artifacts.log_metrics(metrics, result.metrics)
    artifacts.write_summary(
        summary.path, f"Training of {result.facts['name']}", artifacts.table(result.facts), *result.pictures()
    )
