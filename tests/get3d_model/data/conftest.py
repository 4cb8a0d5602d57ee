from pathlib import Path

import pytest

from tests.get3d_model.data.synthetic import make_shapes, write_published_dataset, write_shard_dataset


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shard_dataset(tmp_path / "shard-set", make_shapes())


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_published_dataset(tmp_path / "published-set", make_shapes())
