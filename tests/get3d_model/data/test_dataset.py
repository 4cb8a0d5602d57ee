import math
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.data.dataset import RenderedDataset, open_source, stack_samples, to_training_tensor
from get3d_model.data.shards import INDEX_NAME
from get3d_model.errors import InputError
from tests.get3d_model.data.synthetic import (
    RESOLUTION,
    SHAPES,
    SPLITS,
    VIEWS,
    make_shapes,
    write_published_dataset,
    write_shard_dataset,
)


def _check_against_the_pictures(dataset: RenderedDataset, shape_ids: list[str]) -> None:
    shapes = make_shapes()
    assert len(dataset) == len(shape_ids) * VIEWS
    assert dataset.shape_ids == sorted(shape_ids)
    seen = set()
    for i in range(len(dataset)):
        sample = dataset[i]
        view = shapes[sample.shape_id][sample.view]
        seen.add((sample.shape_id, sample.view))
        assert sample.rgba_4HW.dtype == torch.uint8
        np.testing.assert_array_equal(sample.rgba_4HW.permute(1, 2, 0).numpy(), view.rgba_HW4)
        assert sample.angles_2.dtype == torch.float32
        expected = [view.rotation_deg * math.pi / 180, (90 - view.elevation_deg) * math.pi / 180]
        np.testing.assert_allclose(sample.angles_2.numpy(), expected, rtol=1e-6)
        np.testing.assert_array_equal(dataset.angles_N2[i], sample.angles_2.numpy())
    assert seen == {(shape_id, view) for shape_id in shape_ids for view in range(VIEWS)}


@pytest.mark.parametrize("cache_bytes", [0, 4 * RESOLUTION**2 * 5, 10**9])
@pytest.mark.parametrize(
    ("split", "ids"), [(None, SHAPES), ("train", SPLITS["train"]), ("val", SPLITS["val"])]
)
def test_shards_read_back(shards, split, ids, cache_bytes):
    dataset = RenderedDataset(shards, split, cache_bytes=cache_bytes)
    _check_against_the_pictures(dataset, ids)
    _check_against_the_pictures(dataset, ids)
    cached = sum(value.nbytes for value in dataset._cache.values())
    assert cached == min(cache_bytes, len(dataset) * 4 * RESOLUTION**2)


def test_published_layout_reads_back(published):
    _check_against_the_pictures(RenderedDataset(published), SHAPES)
    _check_against_the_pictures(RenderedDataset(published, None), SHAPES)


def test_published_layout_with_split_files(published, tmp_path):
    files = {name: tmp_path / f"{name}.txt" for name in SPLITS}
    for name, path in files.items():
        path.write_text("\n".join(SPLITS[name]) + "\n\n")
    for name in SPLITS:
        _check_against_the_pictures(RenderedDataset(published, name, split_files=files), SPLITS[name])


def test_split_files_replace_the_splits_of_a_manifest(shards, tmp_path):
    (tmp_path / "mine.txt").write_text("sphere\n")
    dataset = RenderedDataset(shards, "train", split_files={"train": tmp_path / "mine.txt"})
    assert dataset.shape_ids == ["sphere"]


def test_published_layout_without_a_category_level(published, tmp_path):
    for name in ("img", "camera"):
        shutil.move(published / name / "things", tmp_path / "flat" / name)
    _check_against_the_pictures(RenderedDataset(tmp_path / "flat"), SHAPES)


def test_published_layout_with_two_categories(published):
    write_published_dataset(published, {"other": make_shapes()["cube"]}, category="chairs")
    with pytest.raises(InputError, match="holds chairs, things; name the one category"):
        RenderedDataset(published)
    _check_against_the_pictures(RenderedDataset(published, category="things"), SHAPES)
    with pytest.raises(InputError, match="does not exist; check the category 'cars'"):
        RenderedDataset(published, category="cars")


def test_both_layouts_agree_sample_by_sample(shards, published):
    first, second = RenderedDataset(shards, None), RenderedDataset(published, None)
    assert len(first) == len(second) == len(SHAPES) * VIEWS
    for a, b in zip(first, second, strict=True):
        assert (a.shape_id, a.view) == (b.shape_id, b.view)
        assert torch.equal(a.rgba_4HW, b.rgba_4HW)
        assert torch.equal(a.angles_2, b.angles_2)


def test_a_data_set_copied_without_its_index_reads_the_same(shards):
    with_index = [sample.rgba_4HW for sample in RenderedDataset(shards, None)]
    (shards / INDEX_NAME).unlink()
    _check_against_the_pictures(RenderedDataset(shards, None), SHAPES)
    assert all(
        torch.equal(a, b.rgba_4HW) for a, b in zip(with_index, RenderedDataset(shards, None), strict=True)
    )


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dataloader_workers(shards, context):
    dataset = RenderedDataset(shards, None, cache_bytes=10**6)
    reference = [dataset[i] for i in range(len(dataset))]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=4, num_workers=2, collate_fn=stack_samples, multiprocessing_context=context
    )
    batches = list(loader)
    assert torch.equal(
        torch.cat([b.rgba_B4HW for b in batches]), torch.stack([s.rgba_4HW for s in reference])
    )
    assert torch.equal(
        torch.cat([b.angles_B2 for b in batches]), torch.stack([s.angles_2 for s in reference])
    )
    assert [name for b in batches for name in b.shape_ids] == [s.shape_id for s in reference]


def test_threads_read_the_same(shards, published, monkeypatch):
    monkeypatch.setattr("get3d_model.data.dataset.THREADS_FROM_RESOLUTION", 1)
    for path in (shards, published):
        dataset = RenderedDataset(path, None, threads=4)
        items = np.random.default_rng(0).integers(0, len(dataset), 64)
        batch = dataset.read_batch(items)
        assert batch.rgba_B4HW.shape == (64, 4, RESOLUTION, RESOLUTION)
        for row, item in enumerate(items):
            assert torch.equal(batch.rgba_B4HW[row], dataset[item].rgba_4HW)
            assert torch.equal(batch.angles_B2[row], dataset[item].angles_2)


def test_more_shards_than_files_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("get3d_model.data.shard_source._OPEN_FILES", 2)
    dataset = RenderedDataset(write_shard_dataset(tmp_path, make_shapes(), shapes_per_shard=1), None)
    before = len(os.listdir("/proc/self/fd"))
    _check_against_the_pictures(dataset, SHAPES)
    assert len(os.listdir("/proc/self/fd")) == before + 2


def test_threads_that_open_and_drop_files_under_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr("get3d_model.data.shard_source._OPEN_FILES", 1)
    root = write_shard_dataset(tmp_path, make_shapes(), shapes_per_shard=1)
    source = RenderedDataset(root, None).source
    expected = [source.read_png(i) for i in range(len(source.table))]
    items = np.random.default_rng(0).integers(0, len(expected), 5000)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: source.read_png(int(item)), items))
    assert found == [expected[item] for item in items]


def _sum_in_child(dataset, queue):
    queue.put(int(sum(int(dataset[i].rgba_4HW.sum()) for i in range(len(dataset)))))


def test_reading_goes_on_in_a_forked_child_while_the_parent_reads(shards):
    dataset = RenderedDataset(shards, None)
    expected = sum(int(sample.rgba_4HW.sum()) for sample in dataset)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_sum_in_child, args=(dataset, queue)) for _ in range(3)]
    for child in children:
        child.start()
    sums = [sum(int(sample.rgba_4HW.sum()) for sample in dataset) for _ in range(5)]
    sums += [queue.get(timeout=20) for _ in children]
    for child in children:
        child.join()
    assert set(sums) == {expected}


def test_a_copy_has_the_whole_cache_budget(shards):
    dataset = RenderedDataset(shards, None, cache_bytes=5000)
    dataset.read_batch(range(8))
    copy = pickle.loads(pickle.dumps(dataset))
    assert not copy._cache
    assert copy._cache_left == 5000


def test_writing_into_a_sample_does_not_write_into_the_cache(shards):
    dataset = RenderedDataset(shards, None, cache_bytes=10**9)
    dataset[0].rgba_4HW.fill_(7)
    dataset[0].angles_2.fill_(7)
    _check_against_the_pictures(dataset, SHAPES)


def test_out_of_range(shards):
    dataset = RenderedDataset(shards)
    assert dataset[-1].shape_id == dataset[len(dataset) - 1].shape_id
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_unknown_folders(tmp_path, published):
    with pytest.raises(InputError, match="does not exist; check the path"):
        open_source(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds neither manifest.json with shards/ nor img/ with camera/"):
        open_source(tmp_path / "empty")
    with pytest.raises(InputError, match=f"point at {published}"):
        open_source(published / "img")
    (tmp_path / "half" / ".partial").mkdir(parents=True)
    with pytest.raises(InputError, match="rendering did not finish"):
        open_source(tmp_path / "half")


def test_composition_over_the_background():
    rgba = torch.zeros(2, 4, 1, 3, dtype=torch.uint8)
    rgba[0, :, 0, 0] = torch.tensor([255, 0, 0, 255])
    rgba[0, :, 0, 1] = torch.tensor([255, 0, 51, 51])
    rgba[1, :, 0, 2] = torch.tensor([9, 9, 9, 0])
    out = to_training_tensor(rgba, (0.5, 0.0, -1.0))
    assert out.dtype == torch.float32
    assert out[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0, 1.0]
    # alpha 0.2: 0.2 * 1 + 0.8 * 0.5, 0.2 * -1 + 0.8 * 0, 0.2 * -0.6 + 0.8 * -1
    np.testing.assert_allclose(out[0, :, 0, 1].numpy(), [0.6, -0.2, -0.92, 0.2], atol=1e-6)
    assert out[1, :, 0, 2].tolist() == [0.5, 0.0, -1.0, 0.0]
    grey = to_training_tensor(rgba, -1.0)
    assert grey[1, :, 0, 2].tolist() == [-1.0, -1.0, -1.0, 0.0]


@pytest.mark.parametrize("background", [1.5, (0.0, -2.0, 0.0), float("nan")])
def test_background_out_of_range(background):
    with pytest.raises(ValueError, match="background"):
        to_training_tensor(torch.zeros(1, 4, 2, 2, dtype=torch.uint8), background)


@pytest.mark.parametrize("tensor", [torch.zeros(1, 4, 2, 2), torch.zeros(1, 3, 2, 2, dtype=torch.uint8)])
def test_training_tensor_of_something_else(tensor):
    with pytest.raises(ValueError, match="uint8"):
        to_training_tensor(tensor, 0.0)


def test_relative_paths_survive_a_change_of_folder(shards, monkeypatch, tmp_path):
    monkeypatch.chdir(shards.parent)
    dataset = RenderedDataset(Path(shards.name), None)
    monkeypatch.chdir(tmp_path / "/")
    _check_against_the_pictures(dataset, SHAPES)
