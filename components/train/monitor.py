"""What the training tells Prometheus: the facts of this run, and what became of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from get3d_model.config import Config
from get3d_model.training.checkpoint import CHECKPOINT_FILE, list_checkpoints
from monitoring.sinks import TextfileSink, TrainingFacts, TrainingMetrics, exported

if TYPE_CHECKING:
    from get3d_model.training.sink import MetricSink


def facts(config: Config, out: Path, world_size: int, first_step: int) -> TrainingFacts:
    """out: the run's folder, where checkpoints appear."""
    training = config.training
    step_kimg = training.batch_size / 1000

    def every(kimg: float) -> float:
        """As the trainer rounds it to whole steps."""
        return max(1, round(kimg / step_kimg)) * step_kimg

    def checkpoint_time() -> float | None:
        folders = list_checkpoints(out)
        with contextlib.suppress(OSError):  # it may have been replaced meanwhile
            return (folders[-1] / CHECKPOINT_FILE).stat().st_mtime if folders else None
        return None

    return TrainingFacts(
        model=config.name,
        total_kimg=math.ceil(training.total_kimg / step_kimg) * step_kimg,
        log_interval_kimg=every(training.log_interval_kimg),
        checkpoint_interval_kimg=every(training.checkpoint_interval_kimg),
        batch_size=training.batch_size,
        world_size=world_size,
        first_step=first_step,
        checkpoint_time=checkpoint_time,
        gpu_memory_bytes=_gpu_memory,
    )


def _gpu_memory() -> dict[str, float]:
    """By device; asks nothing of a GPU that this process has not used."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    device = torch.cuda.current_device()
    return {str(device): float(torch.cuda.memory_reserved(device))}


@contextlib.contextmanager
def monitored(
    run: TrainingFacts, port: int | None, host: str, textfile: Path | None
) -> Iterator[list[MetricSink]]:
    """Sinks for the trainer while the block lasts; afterwards its end is what Prometheus reads last."""
    from get3d_model.training.signals import TrainingInterrupted
    from get3d_model.training.trainer import TrainingDiverged

    if port is None and textfile is None:
        yield []
        return
    metrics = TrainingMetrics(run)
    sinks: list[MetricSink] = [metrics]
    written = None if textfile is None else TextfileSink(textfile, metrics)
    if written is not None:
        sinks.append(written)
    with exported(metrics, port, host) as url:
        if url is not None:
            print(f"metrics: {url}", flush=True)
        state = "failed"
        try:
            yield sinks
            state = "finished"
        except (TrainingInterrupted, KeyboardInterrupt):
            state = "interrupted"
            raise
        except TrainingDiverged:
            state = "diverged"
            raise
        finally:
            metrics.state(state)
            if written is not None:
                written.write()
