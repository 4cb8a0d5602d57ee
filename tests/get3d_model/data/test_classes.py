"""The classes of a data set, in both layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.manifest import SourceMesh, read_manifest, write_manifest
from get3d_model.data.published import ALL_CATEGORIES
from get3d_model.errors import InputError
from tests.get3d_model.data.synthetic import (
    SHAPES,
    VIEWS,
    make_shapes,
    make_views,
    write_published_dataset,
    write_shard_dataset,
)


def label_shards(root: Path) -> Path:
    """The first two shapes from the folder `cars`, the others from `bikes/old`."""
    manifest = read_manifest(root)
    shapes = {
        name: SourceMesh(f"{'cars' if name in SHAPES[:2] else 'bikes/old'}/{name}.glb", entry.sha256)
        for name, entry in manifest.shapes.items()
    }
    write_manifest(root, replace(manifest, shapes=shapes))
    return root


def test_the_mesh_folder_of_a_shape_is_its_class(tmp_path: Path) -> None:
    root = label_shards(write_shard_dataset(tmp_path, make_shapes()))
    dataset = RenderedDataset(root, "train")
    assert dataset.class_names == ["bikes", "cars"]
    expected = [int(dataset[i].shape_id in SHAPES[:2]) for i in range(len(dataset))]
    assert dataset.classes_N.dtype == np.int64 and dataset.classes_N.tolist() == expected
    # A split with shapes of one class numbers it as the whole data set does.
    assert RenderedDataset(root, "val").class_names == ["bikes", "cars"]


def test_without_folders_there_is_one_class(tmp_path: Path) -> None:
    dataset = RenderedDataset(write_shard_dataset(tmp_path, make_shapes()))
    assert dataset.class_names == ["shapes"] and not dataset.classes_N.any()


def test_categories_of_the_published_layout_are_classes(tmp_path: Path) -> None:
    write_published_dataset(tmp_path, {"a": make_views("a"), "c": make_views("c")}, "chair")
    write_published_dataset(tmp_path, {"b": make_views("b")}, "car")
    with pytest.raises(InputError, match=r"holds car, chair; name the one .* model.num_classes: 2"):
        RenderedDataset(tmp_path)
    dataset = RenderedDataset(tmp_path, category=ALL_CATEGORIES)
    assert dataset.class_names == ["car", "chair"] and len(dataset) == 3 * VIEWS
    of_shape = {dataset[i].shape_id: int(dataset.classes_N[i]) for i in range(len(dataset))}
    assert of_shape == {"a": 1, "b": 0, "c": 1}
    assert np.array_equal(dataset[VIEWS].rgba_4HW.permute(1, 2, 0), make_views("b")[0].rgba_HW4)
    assert RenderedDataset(tmp_path, category="chair").class_names == ["chair"]
    write_published_dataset(tmp_path, {"a": make_views("a")}, "car")
    with pytest.raises(InputError, match="both shape 'a'"):
        RenderedDataset(tmp_path, category=ALL_CATEGORIES)


def test_one_level_of_folders_is_one_class(tmp_path: Path) -> None:
    write_published_dataset(tmp_path, {"a": make_views("a")}, "")
    assert RenderedDataset(tmp_path, category=ALL_CATEGORIES).class_names == ["shapes"]
