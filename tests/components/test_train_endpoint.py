"""Where a training serves its metrics: options go before the environment, and nonsense is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.train.endpoint import HOST, PORT, endpoint
from components.train.indexed_job import IndexedJob
from get3d_model.errors import InputError
from tests.components.train_profiles import FULL, spec


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, (None, None), (None, "127.0.0.1")),
        ({PORT: "9464", HOST: "0.0.0.0"}, (None, None), (9464, "0.0.0.0")),
        ({PORT: "9464", HOST: "0.0.0.0"}, (0, "127.0.0.2"), (0, "127.0.0.2")),
        ({PORT: "", HOST: " "}, (None, None), (None, "127.0.0.1")),
    ],
)
def test_options_go_first(
    environment: dict[str, str],
    options: tuple[int | None, str | None],
    expected: tuple[int | None, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (PORT, HOST):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert endpoint(*options) == expected


@pytest.mark.parametrize("text", ["http", "-1", "65536", "9464.0"])
def test_what_is_no_port(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PORT, text)
    with pytest.raises(InputError, match=f"{PORT} must be a port from 0 to 65535, not '{text}'"):
        endpoint(None, None)
    with pytest.raises(InputError, match=rf"env\.{PORT} of the cluster profile must be a port"):
        IndexedJob(spec(tmp_path, {**FULL, "env": {PORT: text}}))
