"""Names of the metrics that the served model adds to Triton's own (`nv_`) on its metrics endpoint.

Triton counts requests that fail one by one, and cancelled ones, as successes; these metrics do not.
All carry the labels `model` and `version`.
"""

REQUESTS = "get3d_requests_total"
"""Requests that reached the model, whatever became of them."""
ERRORS = "get3d_errors_total"
"""Requests without an answer, by the label `reason`, one of ERROR_REASONS."""
MESHES = "get3d_meshes_total"
"""Meshes delivered."""
EMPTY_MESHES = "get3d_empty_meshes_total"
"""Delivered meshes whose field had no surface: the stand-in shape. A healthy model makes none."""
STAGE_SECONDS = "get3d_stage_duration_seconds"
"""Histogram by the label `stage`, one of STAGES."""
BATCH_ROWS = "get3d_batch_rows"
"""Histogram of the meshes that came together in one dynamic batch."""
RESPONSE_BYTES = "get3d_response_bytes_total"
"""Bytes of the meshes and pictures delivered."""

ERROR_REASONS = ("invalid", "cancelled", "timeout", "internal")
STAGES = ("networks", "extraction", "decimation", "atlas", "texture", "encode", "preview")
"""networks to texture: see `serving.engine`. On a GPU networks and extraction are those of a whole batch."""
STAGE_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)

TABLE = {
    REQUESTS: ("counter", "Requests that reached the model"),
    ERRORS: ("counter", "Requests without an answer, by reason"),
    MESHES: ("counter", "Meshes delivered"),
    EMPTY_MESHES: ("counter", "Delivered meshes whose field had no surface"),
    STAGE_SECONDS: ("histogram", "Duration of the stages of sampling"),
    BATCH_ROWS: ("histogram", "Meshes that came together in one batch"),
    RESPONSE_BYTES: ("counter", "Bytes of the meshes and pictures delivered"),
}
"""Every metric of the served model: kind and description."""
