"""The Kubeflow interface of data sets: parts become one."""

from typing import List  # noqa: UP035 (the name that kfp knows)

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def merge(
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    folder: str,
    dataset: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    code: str = "",
):
    """Makes the rendered parts one data set; moves no image.

    Args:
        parts: Pointers to all parts.
        folder: Where the parts are.
        code: Version of this step's code.

    Returns:
        dataset: Pointer to the whole.
        metrics: How much there is.
        summary: What is in it, with sample pictures.
    """
    from components import artifacts
    from components.data import main, step

    with artifacts.one_line_errors("data merge"):
        paths = [artifacts.read_pointer(part.path) for part in parts]
        if not step.is_whole(paths, folder):
            artifacts.call(main.main, "merge", folder, "--parts", *paths)
        facts = step.facts(folder)
        dataset.metadata.update(artifacts.write_pointer(dataset.path, folder, facts))
        artifacts.log_metrics(metrics, facts)
        artifacts.write_summary(
            summary.path, "Data set", artifacts.table(facts), *step.sample_pictures(folder)
        )
