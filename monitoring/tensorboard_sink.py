"""Training metrics as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path


class TensorBoardSink:
    """Writes each record as scalars of a TensorBoard event file: `tensorboard --logdir FOLDER`.

    A resumed run hides what the run before had written beyond the step it resumes from. A run without a record
    leaves no file.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        """folder: for event files only. Raises ImportError where tensorboard is not installed."""
        from torch.utils.tensorboard import SummaryWriter

        self._open = lambda: SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)
        self._writer: SummaryWriter | None = None

    def record(self, step: int, values: dict[str, float]) -> None:
        self._writer = self._writer or self._open()
        for name, value in values.items():
            # Without a group of their own, TensorBoard gives each of the others a panel apart.
            self._writer.add_scalar(name if "/" in name else f"progress/{name}", value, step)
        self._writer.flush()
