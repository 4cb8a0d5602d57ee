"""Which checkpoint of a run was the best so far, by its validation metric (lower is better).

The record travels in every checkpoint, so that a resumed run knows it; `best.json` in the training folder says the
same to people and to `find_checkpoint`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic
from get3d_model.inference import BEST_FILE


@dataclass(frozen=True)
class Best:
    """metric: what was measured, and on what; values of different ones are not compared.

    value, images_seen: of the best checkpoint; none before the first validation. worse_since: validations after it.
    """

    metric: str
    value: float | None = None
    images_seen: int | None = None
    worse_since: int = 0

    def updated(self, value: float, images_seen: int) -> Best:
        """With one more validation. A value that is not a number is never the best."""
        if math.isfinite(value) and (self.value is None or value < self.value):
            return Best(self.metric, value, images_seen)
        return dataclasses.replace(self, worse_since=self.worse_since + 1)


def best_from_dict(data: Any, metric: str) -> Best:
    """The record of a checkpoint, or a fresh one where it has none of `metric`. Raises InputError when damaged."""
    if not isinstance(data, dict) or data.get("metric") != metric:
        return Best(metric)
    try:
        return Best(**data)
    except TypeError as error:
        raise InputError(
            f"the checkpoint's record of the best one is damaged ({error}); remove the checkpoint"
        ) from None


def write_best(out: Path, best: Best, checkpoint: Path | None) -> None:
    """Writes `best.json`; removes it where nothing was validated yet. An equal file is left alone."""
    path = out / BEST_FILE
    if checkpoint is None:
        path.unlink(missing_ok=True)
        return
    content = {
        "metric": best.metric,
        "value": best.value,
        "kimg": (best.images_seen or 0) / 1000.0,
        "checkpoint": checkpoint.relative_to(out).as_posix(),
    }
    try:
        if json.loads(path.read_text()) == content:
            return
    except (OSError, ValueError):
        pass
    write_json_atomic(path, content)
