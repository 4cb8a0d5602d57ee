"""Checkpoint files of the published implementation: `{'G': ..., 'G_ema': ..., 'D': ...}` written by `torch.save`.

They are pickles. Nothing in them is executed: PyTorch's restricted reader (`weights_only=True`) builds tensors and
plain containers, and refuses everything else.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from get3d_model.bundle import EMA, PARTS, Parts
from get3d_model.errors import InputError
from get3d_model.files import atomic_path

# Wrappers that put their own name before or between those of the model's modules.
WRAPPERS = re.compile(r"(^|\.)(?:module|_orig_mod)\.")


def read_published_file(path: Path) -> Parts:
    """The state dictionaries that are there, in float32, by part. Raises InputError; executes nothing."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    content = _load(path)
    if not isinstance(content, Mapping) or not isinstance(content.get(EMA), Mapping):
        keys = (
            ", ".join(map(repr, list(content)[:5]))
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise InputError(
            f"{path}: holds {keys or 'nothing'}, not the state dictionaries 'G', 'G_ema' and 'D' of GET3D"
        )
    return {part: _state_dict(path, part, content[part]) for part in PARTS if content.get(part) is not None}


def write_published_file(parts: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Writes `path` atomically."""
    with atomic_path(path) as temporary:
        torch.save({part: dict(state) for part, state in parts.items()}, temporary)


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported (?:global|class|operand)[^.\n]*?\b([\w]+(?:\.[\w]+)+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise InputError(
            f"{path}: holds something other than tensors{what}, or is damaged; nothing in it was executed. "
            "Save the state dictionaries alone: torch.save({'G': ..., 'G_ema': ..., 'D': ...})"
        ) from None
    except Exception as error:
        # A damaged or foreign file can stop the reader anywhere.
        lines = str(error).split("\n")
        raise InputError(
            f"{path}: not a readable PyTorch checkpoint ({type(error).__name__}: {lines[0][:160]})"
        ) from None


def _state_dict(path: Path, part: str, state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: {part} is {type(state).__name__}, not a state dictionary")
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"{path}: {part} holds {type(tensor).__name__} under {name!r}; only tensors belong there"
            )
        plain = WRAPPERS.sub(r"\1", name)
        if tensor.is_floating_point():
            tensor = tensor.float()
            if not torch.isfinite(tensor).all():
                raise InputError(f"{path}: {part} {plain} is not finite; use an earlier checkpoint")
        result[plain] = tensor.detach()
    return result
