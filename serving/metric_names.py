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
"""Histogram by the label `stage`, one of STAGES: networks (per batch), texture and encode (per mesh)."""

ERROR_REASONS = ("invalid", "cancelled", "internal")
STAGES = ("networks", "texture", "encode")
STAGE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
