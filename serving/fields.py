"""How values of requests are checked and put into one form, whoever gives them: a caller or the wire.

Every function takes (name, value), returns the value as `SampleRequest` keeps it, and raises InputError with one
line that says what is possible. numpy only.

Shape legend: K latents that are mixed, Z width of a latent
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from get3d_model.errors import InputError
from get3d_model.limits import check_psi, check_seed, check_texture_resolution

MAX_MIXED = 16
"""Latents that one mesh can be mixed from."""
MAX_LATENT_WIDTH = 4096
MAX_TEXT = 128
WEIGHT_SUM_TOLERANCE = 1e-3

Latents = tuple[tuple[float, ...], ...]


def seeds(name: str, value: Any) -> int | tuple[int, ...]:
    """A seed, or several to mix."""
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes)):
        if not 1 <= len(value) <= MAX_MIXED:
            raise InputError(f"{name} has {len(value)} values; mix 1 to {MAX_MIXED}")
        many = tuple(_seed(name, item) for item in value)
        return many[0] if len(many) == 1 else many
    return _seed(name, value)


def latents(name: str, value: Any) -> Latents:
    """K latents of one width; a single one may come as a plain vector."""
    array = _floats(name, value)
    array_KZ = array[None] if array.ndim == 1 else array
    if array_KZ.ndim != 2 or not array_KZ.size:
        raise InputError(f"{name} must be one vector, or a matrix with one row per latent that is mixed")
    if len(array_KZ) > MAX_MIXED or array_KZ.shape[1] > MAX_LATENT_WIDTH:
        raise InputError(
            f"{name} has the shape {list(array_KZ.shape)}; at most {MAX_MIXED} latents of {MAX_LATENT_WIDTH} values"
        )
    if not np.isfinite(array_KZ).all():
        raise InputError(f"{name} has values that are NaN or infinite; give finite ones")
    return tuple(tuple(row) for row in array_KZ.tolist())


def weights(name: str, value: Any) -> tuple[float, ...]:
    """Shares of the latents that are mixed."""
    array_K = _floats(name, value)
    if array_K.ndim != 1 or not 1 <= len(array_K) <= MAX_MIXED:
        raise InputError(f"{name} must be 1 to {MAX_MIXED} numbers, one per latent")
    total = float(array_K.astype(np.float64).sum()) if np.isfinite(array_K).all() else math.nan
    if not (array_K >= 0.0).all() or not abs(total - 1.0) <= WEIGHT_SUM_TOLERANCE:
        raise InputError(f"{name} must be numbers from 0 to 1 whose sum is 1, not {array_K.tolist()}")
    return tuple(array_K.tolist())


def psi(name: str, value: Any) -> float:
    number = _number(name, value)
    check_psi(number)
    return _shortest(number)


def texture_resolution(name: str, value: Any) -> int:
    number = _integer(name, value)
    check_texture_resolution(number)
    return number


def text(name: str, value: Any) -> str:
    try:
        value = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise InputError(f"{name} {_shown(value)} is not text in UTF-8") from None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise InputError(f"{name} must be a text of 1 to {MAX_TEXT} characters, not {_shown(value)}")
    # Half of a character, as JSON can name one alone, cannot be sent.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{name} {_shown(value)} is not text in UTF-8")
    return value


def one_of(choices: Sequence[str]) -> Callable[[str, Any], str]:
    """A check for one of some words."""

    def check(name: str, value: Any) -> str:
        word = text(name, value)
        if word not in choices:
            raise InputError(f"{name} {_shown(word)} is not offered; use one of {', '.join(choices)}")
        return word

    return check


def some_of(choices: Sequence[str]) -> Callable[[str, Any], str]:
    """A check for some words with commas between; they come back in the order of `choices`."""

    def check(name: str, value: Any) -> str:
        words = [word.strip() for word in text(name, value).split(",")]
        for word in words:
            if word not in choices:
                raise InputError(f"{name} {_shown(word)} is not offered; use {', '.join(choices)} or several")
        return ",".join(word for word in choices if word in words)

    return check


def integer(low: int, high: int) -> Callable[[str, Any], int]:
    """A check for a whole number within limits."""

    def check(name: str, value: Any) -> int:
        number = _integer(name, value)
        if not low <= number <= high:
            raise InputError(f"{name} {number} is out of range; use {low} to {high}")
        return number

    return check


def real(low: float, high: float) -> Callable[[str, Any], float]:
    """A check for a number within limits."""

    def check(name: str, value: Any) -> float:
        number = _number(name, value)
        if not low <= number <= high:
            raise InputError(f"{name} {number:g} is out of range; use {low:g} to {high:g}")
        return _shortest(number)

    return check


def _seed(name: str, value: Any) -> int:
    number = _integer(name, value)
    try:
        check_seed(number)
    except InputError as error:
        raise InputError(str(error).replace("seed", name, 1)) from None
    return number


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"{name} must be an integer, not {_shown(value)}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise InputError(f"{name} must be a number, not {_shown(value)}")
    return float(value)


def _floats(name: str, value: Any) -> np.ndarray:
    try:
        # Values beyond float32 become infinite, which the callers refuse.
        with np.errstate(over="ignore"):
            if np.iscomplexobj(value):
                raise TypeError("the imaginary parts would be lost")
            return np.asarray(value, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, not {_shown(value)}") from None


def _shortest(number: float) -> float:
    """The shortest decimal that is this float32: 0.7 arrives as 0.7, not as 0.699999988."""
    return float(str(np.float32(number)))


def _shown(value: Any) -> str:
    """A value as part of a message: one line, not long."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
