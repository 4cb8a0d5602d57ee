"""The Kubeflow interface of exporting: a trained generator becomes a Triton model repository."""

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def export(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    config: str,
    repository: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Markdown],
    code: str = "",
):
    """Writes a Triton model repository with one version, after it has made the same mesh as the checkpoint.

    Args:
        model: The trained generator.
        evaluation: What the evaluation wrote, whose metrics stand in the model card.
        config: Params text with the section serving.
        code: Version of this step's code.

    Returns:
        repository: The model repository.
        summary: What was exported.
    """
    from components import artifacts
    from components.evaluate import step
    from components.export import main
    from components.export.step import card_options

    with artifacts.one_line_errors("export"), artifacts.params_file(config) as params:
        arguments = [
            "--checkpoint",
            step.weights(model.path),
            "--repository",
            repository.path,
            "--config",
            params,
        ]
        artifacts.call(main.main, *arguments, *card_options(evaluation.path))
    facts = {
        key: model.metadata[key] for key in ("name", "kimg", "resolution", "sha256") if key in model.metadata
    }
    repository.metadata.update({"framework": "triton", **facts})
    artifacts.write_summary(summary.path, "Export", artifacts.table(facts))
