"""Stages that a run left out: in the version's dvc.yaml they are comments.

To DVC a stage that is there has run: without outputs of it `dvc pull` fails, and `dvc repro` would run what the run
did not. A version that starts from such a version has the stages back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import yaml

from get3d_model.errors import InputError

PIPELINE_FILE = "dvc.yaml"
MARK = "# left out:"


def with_all_stages(text: str) -> str:
    """dvc.yaml as it was before `without_stages`."""
    return "".join(line.removeprefix(MARK) for line in text.splitlines(keepends=True))


def without_stages(text: str, names: Sequence[str]) -> str:
    """dvc.yaml with these stages as comments; the rest stays as it is written. Raises InputError."""
    if not names:
        return text
    lines = text.splitlines(keepends=True)
    blocks = _blocks(text, lines)
    for name in names:
        if name not in blocks:
            raise InputError(
                f"--without {name}: in dvc.yaml it is one of several stages of one entry (foreach, matrix), or is not"
                f" written on lines of its own; entries are {', '.join(blocks)}"
            )
        first, end = blocks[name]
        lines[first:end] = [f"{MARK}{line}" for line in lines[first:end]]
    return "".join(lines)


def _blocks(text: str, lines: list[str]) -> dict[str, tuple[int, int]]:
    """Of every stage that stands on lines of its own: the first line, and the one after the last."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return {}
    for key, stages in root.value:
        if key.value == "stages" and isinstance(stages, yaml.MappingNode) and not stages.flow_style:
            starts = [stage.start_mark.line for stage, _ in stages.value]
            spans = pairwise([*starts, stages.end_mark.line])
            return {
                stage.value: (first, _end(lines, first, end))
                for (stage, _), (first, end) in zip(stages.value, spans, strict=True)
            }
    return {}


def _end(lines: list[str], first: int, end: int) -> int:
    """Blank lines and comments before the next entry belong to that."""
    while end > first + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end
