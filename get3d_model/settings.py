"""Settings from YAML: frozen dataclasses, filled strictly. An unknown key is an error that names the nearest valid one.

A field may be a str, int, float or bool, one of these or None, a dataclass, a tuple of fixed length (`tuple[int, int]`),
a list of any length (`tuple[Item, ...]`) or a mapping of texts (`dict[str, str]`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from get3d_model.errors import InputError

T = TypeVar("T")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; an empty one is an empty mapping. Raises InputError, FileNotFoundError."""
    try:
        data = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    return data if data is not None else {}


def settings_from_dict(cls: type[T], data: Any, source: str) -> T:
    """Builds the dataclass `cls` from plain values. source: named in messages. Raises InputError."""
    return _build(cls, data, source, "")


def _build(cls: type, data: Any, source: str, prefix: str) -> Any:
    if not isinstance(data, dict):
        raise InputError(f"{source}: {prefix or 'the file'} must be a mapping of settings, not {_kind(data)}")
    hints = typing.get_type_hints(cls)
    known = [item.name for item in dataclasses.fields(cls)]
    values = {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise InputError(f"{source}: unknown setting {name}; did you mean {near}?")
        values[key] = _convert(hints[key], value, source, name)
    for item in dataclasses.fields(cls):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in values:
            raise InputError(f"{source}: {prefix + '.' if prefix else ''}{item.name} is missing; set it")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{source}: {prefix + '.' if prefix else ''}{error}") from None


def _convert(hint: Any, value: Any, source: str, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, source, name)
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint = next(item for item in typing.get_args(hint) if item is not type(None))
        origin = typing.get_origin(hint)
    if origin is dict:
        if not isinstance(value, dict) or not all(
            type(text) is str for pair in value.items() for text in pair
        ):
            raise InputError(
                f"{source}: {name} must be a mapping of texts to texts (quote numbers), not {value!r}"
            )
        return dict(value)
    if origin is tuple:
        items = typing.get_args(hint)
        if items[1:] == (Ellipsis,):
            if not isinstance(value, (list, tuple)):
                raise InputError(f"{source}: {name} must be a list, not {value!r}")
            items = items[:1] * len(value)
        if not isinstance(value, (list, tuple)) or len(value) != len(items):
            raise InputError(f"{source}: {name} must be a list of {len(items)} values, not {value!r}")
        return tuple(
            _convert(h, v, source, f"{name}[{i}]") for i, (h, v) in enumerate(zip(items, value, strict=True))
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        # A whole number can be too large for a float.
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not hint:
        # YAML 1.1 takes 1e-3 for a text.
        exponent = hint is float and isinstance(value, str) and value[:1].isdecimal() and "e" in value.lower()
        told = "; write it with a point and a signed exponent, such as 1.0e-3" if exponent else ""
        raise InputError(f"{source}: {name} must be {hint.__name__}, not {value!r} ({_kind(value)}){told}")
    if hint is float and not math.isfinite(value):
        raise InputError(f"{source}: {name} must be a finite number, not {value}")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
