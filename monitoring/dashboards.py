"""Grafana's dashboards as code: `python -m monitoring.dashboards` writes monitoring/grafana/dashboards/*.json.

What they show is here, `monitoring.grafana_model` makes Grafana's JSON of it. The checked-in files are tested to be what
this writes, and every query names only metrics that are defined.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from get3d_model.files import write_bytes_atomic
from monitoring.grafana_model import ALERTS_OF, Dashboard, Panel, Query, Row, Variable, to_grafana

FOLDER = Path(__file__).parent / "grafana" / "dashboards"


def q(expr: str, legend: str = "") -> Query:
    return Query(expr, legend)


TRAIN = '{model=~"$model",instance=~"$instance"}'
SERVE = '{model=~"$model",instance=~"$instance"}'
VERSION, STEP = "version {{version}}", "{{step}}"
RATE = "[$__rate_interval]"


def _alerts(component: str) -> Panel:
    return Panel(
        "Alerts", [q(f"count({ALERTS_OF.format(component=component)}) or vector(0)")], kind="stat", width=4, height=4,
        limits=[(1, "red")], about="Firing now; docs/runbook.md has a section for each.",
    )  # fmt: skip


TRAINING = Dashboard(
    "get3d-training",
    "GET3D training",
    "One training or several, from `get3d train --metrics-port`.",
    [
        Variable("model", "label_values(get3d_training_kimg, model)"),
        Variable("instance", "label_values(get3d_training_kimg, instance)"),
    ],
    [
        Row("Now", [
            _alerts("training"),
            Panel("State", [q(f"get3d_training_state{TRAIN} == 1", "{{state}}")],
                  kind="stat", width=4, height=4, mappings=[("1", "now")]),
            Panel("Progress", [q(f"get3d_training_kimg{TRAIN} / get3d_training_total_kimg{TRAIN}", "{{model}}")],
                  "percentunit", "stat", 4, 4),
            Panel("Time left", [q(f"(get3d_training_total_kimg{TRAIN} - get3d_training_kimg{TRAIN}) "
                                  f"* get3d_training_seconds_per_kimg{TRAIN}", "{{model}}")], "s", "stat", 4, 4),
            Panel("Checkpoint age", [q(f"time() - get3d_training_checkpoint_timestamp_seconds{TRAIN}", "{{model}}")],
                  "s", "stat", 4, 4, "What would be lost if the job died now."),
            Panel("Processes", [q(f"get3d_training_world_size{TRAIN}", "{{model}}")], kind="stat", width=4, height=4),
        ]),
        Row("Speed", [
            Panel("Images per second", [q(f"rate(get3d_training_images_total{TRAIN}{RATE})", "{{model}}")], "ops"),
            Panel("Seconds per thousand images", [q(f"get3d_training_seconds_per_kimg{TRAIN}", "{{model}}")], "s"),
            Panel("Waiting for images", [q(f"rate(get3d_training_data_wait_seconds_total{TRAIN}{RATE})", "{{model}}")],
                  "percentunit", limits=[(0.2, "orange")], about="Share of the time."),
            Panel("Thousands of images", [q(f"get3d_training_kimg{TRAIN}", "{{model}}")]),
            Panel("Memory", [q(f"get3d_training_gpu_memory_bytes{TRAIN}", "GPU {{device}}"),
                             q('process_resident_memory_bytes{job="get3d-training",instance=~"$instance"}', "host")], "bytes"),
            Panel("Since the last record", [q(f"time() - get3d_training_last_record_timestamp_seconds{TRAIN}", "{{model}}")],
                  "s"),
        ]),
        Row("Losses", [
            Panel("Generator", [q(f"get3d_training_generator_rgb_loss{TRAIN}", "RGB"),
                                q(f"get3d_training_generator_mask_loss{TRAIN}", "silhouette")]),
            Panel("Discriminators", [q(f"get3d_training_discriminator_real_loss{TRAIN}", "real"),
                                     q(f"get3d_training_discriminator_fake_loss{TRAIN}", "generated")]),
            Panel("Signs of the discriminators", [
                q(f"get3d_training_real_rgb_sign{TRAIN}", "RGB, real"),
                q(f"get3d_training_fake_rgb_sign{TRAIN}", "RGB, generated"),
                q(f"get3d_training_real_mask_sign{TRAIN}", "silhouette, real"),
                q(f"get3d_training_fake_mask_sign{TRAIN}", "silhouette, generated")],
                about="Near +1 and -1 the discriminator tells every image, and the generator learns little."),
            Panel("R1 penalty", [q(f"get3d_training_r1_penalty{TRAIN}", "{{model}}")]),
            Panel("SDF regulariser", [q(f"get3d_training_sdf_regularizer{TRAIN}", "{{model}}")]),
            Panel("Distance to held-out views", [q(f"get3d_training_validation_swd{TRAIN}", "{{model}}")],
                  about="Sliced Wasserstein; lower is better. Measured at checkpoints."),
        ]),
        Row("Health", [
            Panel("Gradient norms", [q(f"get3d_training_generator_gradient_norm{TRAIN}", "generator"),
                                     q(f"get3d_training_discriminator_gradient_norm{TRAIN}", "discriminator"),
                                     q(f"get3d_training_r1_gradient_norm{TRAIN}", "R1")]),
            Panel("Gradient values that were not finite",
                  [q(f"increase(get3d_training_replaced_gradients_total{TRAIN}{RATE})", "{{model}}")], limits=[(1, "red")]),
            Panel("Shapes without a surface", [q(f"get3d_training_empty_shape_ratio{TRAIN}", "{{model}}")], "percentunit",
                  minimum=0),
            Panel("Triangles per shape", [q(f"get3d_training_triangles{TRAIN}", "{{model}}")]),
        ]),
    ],
)  # fmt: skip

SERVING = Dashboard(
    "get3d-serving",
    "GET3D serving",
    "Triton, the served model, and the probe that makes real inferences.",
    [
        Variable("model", "label_values(get3d_requests_total, model)"),
        Variable("instance", 'label_values(up{job="get3d-serving"}, instance)'),
    ],
    [
        Row("Now", [
            _alerts("serving"),
            Panel("Servers", [q('sum(up{job="get3d-serving",instance=~"$instance"})')], kind="stat", width=4, height=4),
            Panel("Probe", [q('min(get3d_probe_success{model=~"$model"})')], kind="stat", width=4, height=4,
                  mappings=[("0", "dead"), ("1", "alive")], about="Real inferences."),
            Panel("Requests per second", [q("sum(get3d:serving_requests:rate5m{model=~\"$model\",instance=~\"$instance\"})")],
                  "reqps", "stat", 4, 4),
            Panel("Errors", [q("max(get3d:serving_errors:ratio_rate5m{model=~\"$model\",instance=~\"$instance\"})")],
                  "percentunit", "stat", 4, 4, limits=[(0.02, "red")], about="By the server's fault."),
            Panel("p99", [q("max(get3d:serving_duration_seconds:p99_5m{model=~\"$model\",instance=~\"$instance\"})")],
                  "s", "stat", 4, 4, limits=[(10, "red")]),
        ]),
        Row("Requests", [
            Panel("Requests by version", [q(f"sum by (version) (rate(get3d_requests_total{SERVE}{RATE}))", VERSION)],
                  "reqps"),
            Panel("Errors by reason", [
                q(f"sum by (reason) (rate(get3d_errors_total{SERVE}{RATE}))", "{{reason}}"),
                q(f"sum(rate(nv_inference_request_failure{SERVE}{RATE}))", "before the model")], "reqps",
                about="invalid: the client's own. Triton counts requests that fail in the model as successes, and refused "
                      "ones not at all."),
            Panel("Duration in the model", [
                q("get3d:serving_duration_seconds:p50_5m{model=~\"$model\",instance=~\"$instance\"}", "p50 {{instance}}"),
                q("get3d:serving_duration_seconds:p99_5m{model=~\"$model\",instance=~\"$instance\"}", "p99 {{instance}}")], "s"),
            Panel("Mean duration of the stages", [
                q(f"sum by (stage) (rate(get3d_stage_duration_seconds_sum{SERVE}{RATE})) "
                  f"/ (sum by (stage) (rate(get3d_stage_duration_seconds_count{SERVE}{RATE})) > 0)", "{{stage}}")], "s"),
            Panel("Queue", [
                q(f"sum by (instance) (nv_inference_pending_request_count{SERVE})", "waiting {{instance}}"),
                q(f"max by (instance) (get3d_queue_limit{SERVE})", "limit {{instance}}")]),
            Panel("Mean time in the queue",
                  [q("get3d:serving_queue_seconds:mean5m{model=~\"$model\",instance=~\"$instance\"}", "{{instance}}")], "s"),
            Panel("Probe", [q('get3d_probe_duration_seconds{model=~"$model"}', "duration"),], "s",
                  about="Whole duration of a small mesh as a client sees it."),
            Panel("Refused by the queue", [
                q(f"sum(rate(get3d_queue_rejections_total{SERVE}{RATE}))", "full, as clients tell"),
                q(f'sum(rate(nv_inference_request_failure{{reason="REJECTED",{SERVE[1:-1]}}}{RATE}))', "waited too long"),
                q(f'sum(rate(get3d_probe_rejected_total{{model=~"$model"}}{RATE}))', "probes, full")], "ops",
                about="Triton does not count those whom a full queue refuses; our clients tell the model when they get through."),
        ]),
        Row("Meshes", [
            Panel("Meshes per second", [q(f"sum by (version) (rate(get3d_meshes_total{SERVE}{RATE}))", VERSION)],
                  "ops"),
            Panel("Meshes in a batch", [
                q(f"sum(rate(get3d_batch_rows_sum{SERVE}{RATE})) "
                  f"/ (sum(rate(get3d_batch_rows_count{SERVE}{RATE})) > 0)", "mean")]),
            Panel("Triangles", [
                q(f"sum by (le) (increase(get3d_mesh_triangles_bucket{SERVE}{RATE}))", "{{le}}")], kind="heatmap"),
            Panel("Meshes without a surface", [q(f"sum(rate(get3d_empty_meshes_total{SERVE}{RATE}))", "per second")], "ops"),
            Panel("Asked for again", [
                q(f"sum(rate(get3d_repeated_rows_total{SERVE}{RATE})) / (sum(rate(get3d_batch_rows_sum{SERVE}{RATE})) > 0)",
                  "share")], "percentunit", minimum=0,
                about="What a cache of the last 4096 answers would save. There is none: see docs/monitoring.md."),
            Panel("Bytes", [q(f"sum by (version) (rate(get3d_response_bytes_total{SERVE}{RATE}))", VERSION)], "Bps"),
        ]),
        Row("Drift", [
            Panel("Population stability index, one day",
                  [q('get3d:drift_psi:1d{model=~"$model"}', "{{statistic}}, version {{version}}")],
                  limits=[(0.1, "yellow"), (0.25, "red")], width=12, about="Below 0.1 nothing has changed; from 0.25 on the "
                  "meshes, or their pictures (render), are another population than those of the export."),
            Panel("What was compared, one day", [
                q('max by (version) (get3d:drift_samples:increase1d{model=~"$model",statistic="triangles"})',
                  "meshes, version {{version}}"),
                q('max by (version) (get3d:drift_samples:increase1d{model=~"$model",statistic="render_silhouette"})',
                  "pictures, version {{version}}")], width=12, about="200 are enough for an alert."),
        ]),
        Row("Machine", [
            Panel("What runs", [q(f"count by (version, package, torch, checkpoint) (get3d_build_info{SERVE})",
                                  "version {{version}}: package {{package}}, torch {{torch}}, {{checkpoint}}")], kind="bargauge",
                  about="Servers, by what they serve and with what; replicas should not differ but during a roll-out."),
            Panel("Shared memory", [q(f"get3d_shm_used_bytes{SERVE} / get3d_shm_size_bytes{SERVE}", "{{instance}}")],
                  "percentunit", limits=[(0.8, "red")], minimum=0),
            Panel("CPU", [q('nv_cpu_utilization{instance=~"$instance"}', "{{instance}}")], "percentunit", minimum=0),
            Panel("Memory", [q('nv_cpu_memory_used_bytes{instance=~"$instance"}', "used {{instance}}"),
                             q('nv_cpu_memory_total_bytes{instance=~"$instance"}', "all {{instance}}")], "bytes"),
            Panel("GPU", [q('nv_gpu_utilization{instance=~"$instance"}', "{{gpu_uuid}}")], "percentunit", minimum=0),
            Panel("GPU memory", [q('nv_gpu_memory_used_bytes{instance=~"$instance"}', "used {{gpu_uuid}}")], "bytes"),
        ]),
    ],
)  # fmt: skip

PIPELINE = Dashboard(
    "get3d-pipeline",
    "GET3D pipeline",
    "Steps and outcomes of pipeline runs, from the Pushgateway or textfiles.",
    [Variable("step", "label_values(get3d_pipeline_step_duration_seconds, step)")],
    [
        Row("Last run", [
            _alerts("pipeline"),
            Panel("Outcome", [q("max by (outcome) (get3d_pipeline_run_outcome) == 1", "{{outcome}}")],
                  kind="stat", width=4, height=4,
                  mappings=[("1", "yes")]),
            Panel("Ended", [q("time() - max(get3d_pipeline_run_timestamp_seconds)", "ago")], "s", "stat", 4, 4),
            Panel("Gate", [q("max(get3d_pipeline_gate_promoted)")], kind="stat", width=4, height=4,
                  mappings=[("0", "held"), ("1", "promoted")]),
            Panel("Held in a row", [q("max(get3d_pipeline_gate_held_runs)")], kind="stat", width=4, height=4,
                  limits=[(1, "yellow"), (3, "red")]),
            Panel("Meshes set aside", [q("max by (step) (get3d_pipeline_rejected_rows)", "{{step}}")], kind="stat", width=4,
                  height=4),
        ]),
        Row("Steps", [
            Panel("Duration of the last run", [q('max by (step) (get3d_pipeline_step_duration_seconds{step=~"$step"})', STEP)],
                  "s", "bargauge", 12),
            Panel("Outcome of the last run",
                  [q('max by (step, outcome) (get3d_pipeline_step_outcome{step=~"$step"}) == 1', "{{step}} {{outcome}}")],
                  kind="stat", width=12, mappings=[("1", "last")]),
            Panel("Durations over time", [q('max by (step) (get3d_pipeline_step_duration_seconds{step=~"$step"})', STEP)],
                  "s", width=12),
            Panel("Share of meshes set aside", [
                q("max by (step) (get3d_pipeline_rejected_rows) "
                  "/ (max by (step) (get3d_pipeline_rejected_rows) + max by (step) (get3d_pipeline_accepted_rows) > 0)",
                  "{{step}}")], "percentunit", width=12, limits=[(0.1, "red")], minimum=0),
        ]),
    ],
)  # fmt: skip

DASHBOARDS = (TRAINING, SERVING, PIPELINE)


def files() -> dict[str, str]:
    """The dashboards' files by name."""
    return {
        f"{dashboard.uid}.json": json.dumps(to_grafana(dashboard), indent=1, sort_keys=True) + "\n"
        for dashboard in DASHBOARDS
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder that Grafana reads")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        write_bytes_atomic(args.out / name, text.encode())


if __name__ == "__main__":
    main()
