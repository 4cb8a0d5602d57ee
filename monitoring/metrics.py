"""Every metric of the project: name, kind, unit and labels, defined once.

Exporters, the served model, rules, dashboards and their tests read this table; a name that is not here is exported by
nobody. No label takes a value from a request or from data: the values are listed in LABEL_VALUES, or are as few as
their line there says, so that the number of series has a bound (`max_series`).
Standard library only: the served model imports it.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHER = "other"
"""What a label says instead of a value that is not listed."""


@dataclass(frozen=True)
class Metric:
    """name: with its unit at the end. record: the trainer's name of the value, where the trainer reports it.

    A counter's `record` is what it grew by since the record before.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    record: str = ""
    buckets: tuple[float, ...] = ()


ERROR_REASONS = ("invalid", "cancelled", "timeout", "internal")
STAGES = ("networks", "extraction", "decimation", "atlas", "texture", "encode", "preview")
"""networks to texture: see `serving.engine`. On a GPU networks and extraction are those of a whole batch."""
MESH_STATISTICS = (
    "triangles", "area", "volume", "extent_x", "extent_y", "extent_z", "brightness", "saturation"
)  # fmt: skip
RENDER_STATISTICS = ("render_silhouette", "render_brightness", "render_saturation", "render_contrast")
STATISTICS = (*MESH_STATISTICS, *RENDER_STATISTICS)
"""Of a sampled mesh, and of its picture: see `serving.drift`."""
DRIFT_BINS = tuple(str(number) for number in range(5))
TRAINING_STATES = ("running", "finished", "interrupted", "diverged", "failed")
STEPS = (
    "validate", "synth", "render", "data_merge", "train", "evaluate", "gate", "export", "deploy", "version", "finish",
)  # fmt: skip
OUTCOMES = ("succeeded", "failed", "interrupted")

LABEL_VALUES: dict[str, tuple[str, ...] | int] = {
    "reason": ERROR_REASONS,
    "stage": STAGES,
    "statistic": STATISTICS,
    "bin": DRIFT_BINS,
    "state": TRAINING_STATES,
    "step": (*STEPS, OTHER),
    "outcome": OUTCOMES,
    "model": 1,  # of one process: the configuration's name, or the name that the server gives
    "version": 4,  # that one server holds at a time
    "device": 8,  # GPUs of one machine
    "package": 1,  # of this software, and of torch: those of one process
    "torch": 1,
    "checkpoint": 1,  # of one version
}
"""For each label its values, or how many there are at most in what one process exports."""
MAX_SERIES = 1500
"""Of one process, all metrics together."""

STAGE_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
TRIANGLE_BUCKETS = (100, 1000, 5000, 10000, 20000, 50000, 100000, 200000, 500000)

_MODEL = ("model",)


def _training(kind: str, name: str, help: str, record: str = "", labels: tuple[str, ...] = ()) -> Metric:
    return Metric(f"get3d_training_{name}", kind, help, (*_MODEL, *labels), record)


TRAINING = (
    _training("gauge", "kimg", "Thousands of real images shown to the discriminators.", "kimg"),
    _training("gauge", "total_kimg", "What kimg is when the training is over."),
    _training("gauge", "seconds_per_kimg", "Wall time per thousand images.", "sec_per_kimg"),
    _training("gauge", "step", "Steps done, those before a resume among them."),
    _training("counter", "images_total", "Real images since this process began; its rate is images per second."),
    _training("counter", "data_wait_seconds_total", "Time waited for images; its rate is a share of the time.", "data_wait_s"),
    _training("gauge", "generator_rgb_loss", "Generator loss, RGB discriminator.", "loss/generator_rgb"),
    _training("gauge", "generator_mask_loss", "Generator loss, silhouette discriminator.", "loss/generator_mask"),
    _training("gauge", "discriminator_fake_loss", "Discriminator loss on generated images.", "loss/discriminator_fake"),
    _training("gauge", "discriminator_real_loss", "Discriminator loss on real images.", "loss/discriminator_real"),
    _training("gauge", "r1_penalty", "Unweighted R1 gradient penalty.", "loss/r1"),
    _training("gauge", "sdf_regularizer", "Unweighted SDF cross entropy.", "loss/sdf_regularizer"),
    _training("gauge", "real_rgb_sign", "Mean sign of the RGB discriminator on real images.", "signs/real_rgb"),
    _training("gauge", "fake_rgb_sign", "Mean sign of the RGB discriminator on generated images.", "signs/fake_rgb"),
    _training("gauge", "real_mask_sign", "Mean sign of the silhouette discriminator on real images.", "signs/real_mask"),
    _training("gauge", "fake_mask_sign", "Mean sign of the silhouette discriminator on generated ones.", "signs/fake_mask"),
    _training("gauge", "generator_gradient_norm", "Generator gradient norm.", "gradients/generator_norm"),
    _training("gauge", "discriminator_gradient_norm", "Discriminator gradient norm.", "gradients/discriminator_norm"),
    _training("gauge", "r1_gradient_norm", "Gradient norm of the R1 step.", "gradients/r1_norm"),
    _training("counter", "replaced_gradients_total", "Gradient values replaced as not finite.", "gradients/replaced_count"),
    _training("gauge", "validation_swd", "Distance (SWD) to held-out views.", "validation/swd"),
    _training("gauge", "empty_shape_ratio", "Share of generated shapes without a surface.", "shapes/empty_fraction"),
    _training("counter", "empty_shapes_total", "Generated shapes without a surface."),
    _training("gauge", "triangles", "Mean triangles per generated shape.", "shapes/triangles"),
    _training("gauge", "log_interval_kimg", "Thousands of images between two records."),
    _training("gauge", "checkpoint_interval_kimg", "Thousands of images between two checkpoints."),
    _training("gauge", "start_timestamp_seconds", "When this process began to train."),
    _training("gauge", "last_record_timestamp_seconds", "When the trainer last reported."),
    _training("gauge", "checkpoint_timestamp_seconds", "When the newest checkpoint was written; the start without one."),
    _training("gauge", "world_size", "Processes that train together."),
    _training("gauge", "gpu_memory_bytes", "Device memory that this process holds.", labels=("device",)),
    _training("gauge", "state", "1 for the state that the training is in, 0 for the others.", labels=("state",)),
)  # fmt: skip

_SERVED = ("model", "version")
SERVING = (
    Metric("get3d_requests_total", "counter", "Requests that reached the model, whatever became of them", _SERVED),
    Metric("get3d_errors_total", "counter", "Requests without an answer, by reason", (*_SERVED, "reason")),
    Metric("get3d_meshes_total", "counter", "Meshes delivered", _SERVED),
    Metric("get3d_empty_meshes_total", "counter", "Delivered meshes whose field had no surface", _SERVED),
    Metric("get3d_stage_duration_seconds", "histogram", "Duration of the stages of sampling", (*_SERVED, "stage"),
           buckets=STAGE_BUCKETS_S),
    Metric("get3d_batch_rows", "histogram", "Meshes that came together in one batch", _SERVED, buckets=BATCH_BUCKETS),
    Metric("get3d_response_bytes_total", "counter", "Bytes of the meshes and pictures delivered", _SERVED),
    Metric("get3d_request_duration_seconds", "histogram", "Duration of requests in the model, without the queue",
           _SERVED, buckets=REQUEST_BUCKETS_S),
    Metric("get3d_mesh_triangles", "histogram", "Triangles of the meshes delivered", _SERVED, buckets=TRIANGLE_BUCKETS),
    Metric("get3d_queue_rejections_total", "counter", "Refusals by a full queue that clients told of with a later request",
           _SERVED),
    Metric("get3d_repeated_rows_total", "counter", "Meshes asked for again lately: what a cache of answers would save",
           _SERVED),
    Metric("get3d_queue_limit", "gauge", "Requests that may wait before others are refused", _SERVED),
    Metric("get3d_build_info", "gauge", "1; its labels say what runs: versions of the package and torch, checkpoint's SHA-256",
           (*_SERVED, "package", "torch", "checkpoint")),
    Metric("get3d_shm_size_bytes", "gauge", "Size of /dev/shm, which Triton and the model exchange tensors in", _SERVED),
    Metric("get3d_shm_used_bytes", "gauge", "What of /dev/shm is used", _SERVED),
    Metric("get3d_sampled_statistic_total", "counter", "Sampled meshes by the bin that a statistic fell into",
           (*_SERVED, "statistic", "bin")),
    Metric("get3d_reference_share", "gauge", "Share of each bin among the meshes sampled at the export",
           (*_SERVED, "statistic", "bin")),
)  # fmt: skip

PROBE = (
    Metric("get3d_probe_success", "gauge", "1 when the last probe, a real inference, was answered.", _MODEL),
    Metric("get3d_probe_duration_seconds", "gauge", "Duration of the last probe.", _MODEL),
    Metric("get3d_probe_timestamp_seconds", "gauge", "When the last probe ended.", _MODEL),
    Metric("get3d_probe_total", "counter", "Probes.", _MODEL),
    Metric("get3d_probe_rejected_total", "counter", "Probes refused because the queue was full.", _MODEL),
)  # fmt: skip

PIPELINE = (
    Metric("get3d_pipeline_step_duration_seconds", "gauge", "Duration of the step's last run.", ("step",)),
    Metric("get3d_pipeline_step_timestamp_seconds", "gauge", "When the step last ended.", ("step",)),
    Metric("get3d_pipeline_step_outcome", "gauge", "1 for what became of the step's last run.", ("step", "outcome")),
    Metric("get3d_pipeline_rejected_rows", "gauge", "Meshes that the last run of the step set aside.", ("step",)),
    Metric("get3d_pipeline_accepted_rows", "gauge", "Meshes that the last run of the step kept.", ("step",)),
    Metric("get3d_pipeline_gate_promoted", "gauge", "1 when the gate let the last model through."),
    Metric("get3d_pipeline_gate_held_runs", "gauge", "Runs in a row whose model the gate held."),
    Metric("get3d_pipeline_run_outcome", "gauge", "1 for what became of the last run.", ("outcome",)),
    Metric("get3d_pipeline_run_timestamp_seconds", "gauge", "When the last run ended."),
)  # fmt: skip

METRICS: dict[str, Metric] = {m.name: m for m in (*TRAINING, *SERVING, *PROBE, *PIPELINE)}

RECORDED = {m.record: m for m in TRAINING if m.record}
"""The trainer's names of values."""

TRITON_METRICS = (
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us",
    "nv_inference_pending_request_count", "nv_cpu_utilization", "nv_cpu_memory_used_bytes", "nv_cpu_memory_total_bytes",
    "nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes",
)  # fmt: skip
"""Triton's own, as far as rules and dashboards use them."""
PROMETHEUS_METRICS = ("up", "ALERTS", "push_time_seconds", "process_resident_memory_bytes")
KUBERNETES_METRICS = ("kube_pod_container_status_restarts_total",)
"""Of kube-state-metrics, where the cluster has it."""


def bounded(label: str, value: str) -> str:
    """The value where it is listed, else OTHER. Raises KeyError for a label or value that has no place."""
    values = LABEL_VALUES[label]
    if isinstance(values, int) or value in values:
        return value
    if OTHER in values:
        return OTHER
    raise KeyError(f"label {label} takes {', '.join(values)}, not {value}")


def max_series(metric: Metric) -> int:
    """How many series one process can export of it."""
    count = len(metric.buckets) + 3 if metric.kind == "histogram" else 1
    for label in metric.labels:
        values = LABEL_VALUES[label]
        count *= values if isinstance(values, int) else len(values)
    return count


def series_names(metric: Metric) -> tuple[str, ...]:
    """The names under which Prometheus has it."""
    if metric.kind == "histogram":
        return tuple(f"{metric.name}_{suffix}" for suffix in ("bucket", "sum", "count"))
    return (metric.name,)


def known_series() -> frozenset[str]:
    """Every name that a query may use, recording rules aside."""
    ours = {name for metric in METRICS.values() for name in series_names(metric)}
    return frozenset({*ours, *TRITON_METRICS, *PROMETHEUS_METRICS, *KUBERNETES_METRICS})
