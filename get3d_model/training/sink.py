"""Where training reports to. The trainer knows the protocol; Prometheus and others implement it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from get3d_model.files import write_bytes_atomic


class MetricSink(Protocol):
    """Receives one flat record of numbers per log interval."""

    def record(self, step: int, values: dict[str, float]) -> None: ...


class JsonLinesSink:
    """Appends one JSON object per record. After a resume, records beyond the resumed step are dropped."""

    def __init__(self, path: Path, resume_step: int) -> None:
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    continue  # the half-written last line of a killed run
        write_bytes_atomic(path, "".join(line + "\n" for line in kept).encode())
        self._path = path

    def record(self, step: int, values: dict[str, float]) -> None:
        with open(self._path, "a") as handle:
            handle.write(json.dumps({"step": step, **values}) + "\n")
