"""The served model's metrics, by the names that its code uses; `monitoring.metrics` defines them.

Triton counts requests that fail one by one, and cancelled ones, as successes; these metrics do not.
All carry the labels `model` and `version`.
"""

from monitoring.metrics import (
    BATCH_BUCKETS,
    DRIFT_BINS,
    ERROR_REASONS,
    METRICS,
    REQUEST_BUCKETS_S,
    SERVING,
    STAGE_BUCKETS_S,
    STAGES,
    STATISTICS,
    TRIANGLE_BUCKETS,
)

__all__ = [
    "BATCH_BUCKETS", "BATCH_ROWS", "BUILD_INFO", "DRIFT_BINS", "EMPTY_MESHES", "ERRORS", "ERROR_REASONS", "MESHES",
    "QUEUE_LIMIT", "QUEUE_REJECTIONS", "REFERENCE_SHARE", "REPEATED_ROWS", "REQUESTS", "REQUEST_BUCKETS_S",
    "REQUEST_SECONDS", "RESPONSE_BYTES", "SAMPLED", "SHM_SIZE", "SHM_USED", "STAGES", "STAGE_BUCKETS_S",
    "STAGE_SECONDS", "STATISTICS", "TABLE", "TRIANGLES", "TRIANGLE_BUCKETS",
]  # fmt: skip

REQUESTS = METRICS["get3d_requests_total"].name
BUILD_INFO = METRICS["get3d_build_info"].name
ERRORS = METRICS["get3d_errors_total"].name
MESHES = METRICS["get3d_meshes_total"].name
EMPTY_MESHES = METRICS["get3d_empty_meshes_total"].name
STAGE_SECONDS = METRICS["get3d_stage_duration_seconds"].name
BATCH_ROWS = METRICS["get3d_batch_rows"].name
RESPONSE_BYTES = METRICS["get3d_response_bytes_total"].name
REQUEST_SECONDS = METRICS["get3d_request_duration_seconds"].name
TRIANGLES = METRICS["get3d_mesh_triangles"].name
REPEATED_ROWS = METRICS["get3d_repeated_rows_total"].name
QUEUE_REJECTIONS = METRICS["get3d_queue_rejections_total"].name
QUEUE_LIMIT = METRICS["get3d_queue_limit"].name
SHM_SIZE = METRICS["get3d_shm_size_bytes"].name
SHM_USED = METRICS["get3d_shm_used_bytes"].name
SAMPLED = METRICS["get3d_sampled_statistic_total"].name
REFERENCE_SHARE = METRICS["get3d_reference_share"].name

TABLE = {metric.name: (metric.kind, metric.help) for metric in SERVING}
"""Every metric of the served model: kind and description."""
