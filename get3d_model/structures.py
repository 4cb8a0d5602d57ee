"""Tensors inside nested tuples and dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Any], structure: Any) -> Any:
    """The same structure with every tensor replaced by function(tensor); None stays."""
    if structure is None:
        return None
    if isinstance(structure, Tensor):
        return function(structure)
    if isinstance(structure, tuple | list):
        return type(structure)(map_tensors(function, item) for item in structure)
    if dataclasses.is_dataclass(structure):
        names = [item.name for item in dataclasses.fields(structure)]
        return type(structure)(**{n: map_tensors(function, getattr(structure, n)) for n in names})
    raise TypeError(f"no tensors can be in a {type(structure).__name__}")


def tensors_of(structure: Any) -> list[Tensor]:
    """All tensors, in a fixed order."""
    found: list[Tensor] = []
    map_tensors(found.append, structure)
    return found
