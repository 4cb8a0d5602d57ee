"""Kernels still work where nothing can be cached."""

from __future__ import annotations

import numba
import pytest

from get3d_model.jit import kernel


def test_a_place_without_a_writable_cache_compiles_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locator(*_: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    def double(x: int) -> int:
        return 2 * x

    monkeypatch.setattr(numba.core.caching.FunctionCache, "__init__", no_locator)
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(double)
    assert kernel(double)(21) == 42
