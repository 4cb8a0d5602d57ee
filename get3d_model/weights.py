"""Weight files: safetensors with a small JSON description in their header. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from get3d_model.errors import InputError
from get3d_model.files import atomic_path

HEADER_KEY = "get3d"


def save_tensors(tensors: dict[str, Tensor], path: Path, description: dict[str, Any]) -> None:
    """Writes `path` atomically; `description` is JSON-able and goes into the header."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        # safetensors makes files that their owner alone can read; a server may run as somebody else.
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(plain, temporary, metadata={HEADER_KEY: json.dumps(description, sort_keys=True)})
        temporary.chmod(mode)


def load_tensors(
    path: Path, device: torch.device | str = "cpu", wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(the tensors with wanted names, description). Raises InputError for a missing, damaged or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    try:
        with safe_open(path, framework="pt", device=str(device)) as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys() if wanted(name)}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); write it again") from None
    if HEADER_KEY not in metadata:
        raise InputError(f"{path}: has no {HEADER_KEY} description; it was not written by get3d")
    try:
        return tensors, dict(json.loads(metadata[HEADER_KEY]))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: its {HEADER_KEY} description is damaged ({error}); write it again"
        ) from None


def tensor_names(path: Path) -> list[str]:
    """Names of a weight file's tensors, without reading them. Raises InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    try:
        with safe_open(path, framework="pt") as handle:
            return list(handle.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); write it again") from None


def load_module(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Fills `module` exactly. Raises InputError naming the first name or shape that does not fit."""
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{source}: lacks {name}; the file belongs to another configuration")
        if name not in expected:
            raise InputError(
                f"{source}: has {name}, which this configuration does not; the file belongs to another"
            )
        if tensors[name].shape != expected[name].shape:
            raise InputError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}, "
                f"this configuration needs {tuple(expected[name].shape)}"
            )
    module.load_state_dict(tensors)
