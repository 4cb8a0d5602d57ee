"""What the export step of a pipeline tells the model card, as dvc.yaml does."""

from __future__ import annotations

from pathlib import Path

CREDITS_FILE = Path(__file__).parent / "credits.md"
"""Whom to name for the weights in get3d_model/pretrained, which trainings start from unless told otherwise."""


def card_options(evaluation: str) -> list[str]:
    """evaluation: the folder that the evaluation wrote."""
    return ["--metrics", str(Path(evaluation) / "metrics.json"), "--credits", str(CREDITS_FILE)]
