"""What every test starts from."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Before torch is imported. The tests' models are so small that threads which wait for each other, most of all
# beside another load, take many times what the work takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test has a terminal; those of the records themselves (tests/monitoring/test_logs.py) choose another.
os.environ.setdefault("GET3D_LOG_FORMAT", "text")

import pytest

# Its log goes for ever to what standard output was when it was first imported; that of a test is closed at its end.
with contextlib.suppress(ImportError):
    import dvc  # noqa: F401

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests started under torchrun or in a job must not join its process group."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def repository_root() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered data set of 16 px; nothing may write into it."""
    from tests.get3d_model.training.tiny import write_dataset

    return write_dataset(tmp_path_factory.mktemp("tiny-data"))
