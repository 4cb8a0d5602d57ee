"""The PyTorch compositions that define the fused kernels, where the kernels would run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock


@contextmanager
def compositions(modules: Sequence[str]) -> Iterator[None]:
    """Operations of these modules (below get3d_model) are composed of PyTorch's inside the block."""
    with ExitStack() as stack:
        for name in modules:
            module = importlib.import_module(f"get3d_model.{name}")
            stack.enter_context(mock.patch.object(module, "is_fused", lambda _: False))
        yield
