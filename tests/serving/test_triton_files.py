"""What the bundled Triton server needs around it."""

from __future__ import annotations

import importlib.metadata

import pytest

from get3d_model.errors import InputError
from serving.triton_files import find_triton


def test_a_numpy_that_the_server_cannot_use_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pytriton")
    assert find_triton().binary.exists()
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.3.5" if name == "numpy" else real(name)
    )
    with pytest.raises(InputError, match=r"NumPy 2\.3\.5 .* crash .*; run: pip install 'numpy<2'"):
        find_triton()
