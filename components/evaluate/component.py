"""The Kubeflow interfaces of measuring a model, and of the gate before production."""

from typing import NamedTuple

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def evaluate(
    model: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    meshes: str,
    mesh_fingerprint: str,
    config: str,
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    production_metrics: str = "",
    production_fingerprint: str = "",
    code: str = "",
):
    """Measures the model against held-out meshes and pictures.

    Args:
        model: The trained generator.
        dataset: Pointer to the rendered data set, which names the held-out shapes.
        meshes: Folder or .zip with the meshes.
        mesh_fingerprint: Changes when the meshes change.
        config: Params text with the section evaluation.
        production_metrics: metrics.json of the model in production, where thresholds compare with it; or empty.
        production_fingerprint: Changes with that file.
        code: Version of this step's code.

    Returns:
        evaluation: Folder with metrics.json, gate.json and the report.
        metrics: The metrics; what could not be measured is left out.
        report: Self-contained page with pictures.
        summary: The metrics as a table, and pictures of samples.
    """
    from components import artifacts
    from components.evaluate import main, step
    from components.validate.meshes import local_meshes

    with artifacts.one_line_errors("evaluate"), artifacts.params_file(config) as params:
        data = artifacts.read_pointer(dataset.path)
        arguments = [
            "--checkpoint",
            step.weights(model.path),
            "--data",
            data,
            "--meshes",
            local_meshes(meshes),
        ]
        arguments += ["--production", production_metrics] if production_metrics else []
        arguments += ["--device", "auto"]
        artifacts.call(main.main, *arguments, "--out", evaluation.path, "--config", params)
        values = step.metrics(evaluation.path)
        step.copy_report(evaluation.path, report.path)
    artifacts.log_metrics(metrics, values)
    artifacts.write_summary(
        summary.path, "Evaluation", artifacts.table(values), *step.pictures(evaluation.path)
    )


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def gate(
    evaluation: dsl.Input[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    promote: str = "auto",
    run_id: str = "",
    workspace: str = "",
) -> NamedTuple("Verdict", [("decision", str), ("reasons", list)]):
    """Decides whether the model goes into production.

    Args:
        evaluation: What the evaluation wrote.
        promote: auto (by the thresholds of params.yaml), always or never.
        run_id: Name of this run.
        workspace: Folder that every step sees, where the exit handler finds the decision; or empty.

    Returns:
        summary: The decision and its reasons.
        decision: promote or hold.
        reasons: One line each.
    """
    from components import artifacts
    from components.evaluate import step

    with artifacts.one_line_errors("gate"):
        verdict = step.verdict(evaluation.path, promote)
        if workspace:
            step.record_verdict(workspace, run_id, verdict)
    reasons = "\n".join(f"- {reason}" for reason in verdict["reasons"])
    artifacts.write_summary(summary.path, f"Decision: {verdict['decision']}", reasons)
    print(f"{verdict['decision']}\n{reasons}", flush=True)
    return artifacts.named_outputs(verdict)
