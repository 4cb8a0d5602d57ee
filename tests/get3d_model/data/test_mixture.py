"""What training draws: mixtures, near-duplicates, mirrored images, other resolutions, weighted order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.camera_settings import CameraConfig
from get3d_model.cameras import orbit_camera
from get3d_model.data.base import View, shrink_rgba, stack_samples
from get3d_model.data.dataset import RenderedDataset, open_source, to_training_tensor
from get3d_model.data.manifest import read_manifest, write_manifest
from get3d_model.data.preflight import preflight
from get3d_model.data.sampler import InfiniteSampler
from get3d_model.data.stats import dataset_stats
from get3d_model.data.verify import verify_dataset
from get3d_model.errors import InputError
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer
from get3d_model.types import TexturedMesh
from tests.get3d_model.data.synthetic import make_views, write_published_dataset, write_shard_dataset


def mixture(tmp_path: Path, text: str) -> Path:
    (tmp_path / "mix.yaml").write_text(text)
    return tmp_path / "mix.yaml"


def three_sets(tmp_path: Path) -> Path:
    """Two cars of 32 pixels, two buses of 16 in the published layout."""
    cars = {name: make_views(name, resolution=32) for name in ("a", "b")}
    write_shard_dataset(tmp_path / "cars", cars, splits={"train": ["a"], "val": ["b"]})
    write_published_dataset(tmp_path / "buses", {name: make_views(name) for name in ("a", "c")}, "bus")
    return mixture(
        tmp_path,
        "sources:\n- {path: cars, weight: 3}\n- {path: buses, category: bus, label: bus}\n",
    )


def test_a_mixture_reads_as_one_data_set(tmp_path: Path) -> None:
    path = three_sets(tmp_path)
    source = open_source(path)
    assert source.table.shape_ids == ("buses-a", "buses-c", "cars-a", "cars-b")
    assert source.splits == {"train": ["cars-a", "buses-a", "buses-c"], "val": ["cars-b"]}
    assert source.table.labels == ("bus", "bus", "shapes", "shapes") and source.resolution == 16
    dataset = RenderedDataset(path)
    assert dataset.shape_ids == ["buses-a", "buses-c", "cars-a"] and len(dataset) == 9
    expected = [
        *(make_views("a")[view].rgba_HW4 for view in range(3)),
        *(make_views("c")[view].rgba_HW4 for view in range(3)),
        *(shrink_rgba(make_views("a", resolution=32)[view].rgba_HW4, 2) for view in range(3)),
    ]
    batch = dataset.read_batch(range(9))
    np.testing.assert_array_equal(batch.rgba_B4HW.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    angles = [view.rotation_deg for view in make_views("a")]
    np.testing.assert_allclose(np.rad2deg(batch.angles_B2[:3, 0].numpy()), angles, rtol=1e-5)
    assert not list(verify_dataset(path)) and dataset_stats(path).classes == {"bus": 2, "shapes": 2}
    assert preflight(path, resolution=16, cameras=CameraConfig(distribution="dataset")).images == 12


def test_weights_hold_between_the_data_sets(tmp_path: Path) -> None:
    dataset = RenderedDataset(three_sets(tmp_path))
    weights = dataset.weights_N(balance_groups=True)
    is_car = np.array([shape_id.startswith("cars") for shape_id in stack_samples(dataset).shape_ids])
    assert weights[is_car].sum() / weights.sum() == pytest.approx(3 / 4)
    sampler = InfiniteSampler(len(dataset), 0, weights_N=weights)
    drawn = np.concatenate([sampler.batch(step, 9) for step in range(400)])
    assert is_car[drawn].mean() == pytest.approx(3 / 4, abs=1e-3)


def test_recolours_of_a_shape_are_drawn_as_one(tmp_path: Path) -> None:
    names = ["alone", *(f"recolour{i}" for i in range(10)), "held_out"]
    views = {name: make_views(name) for name in names}
    write_shard_dataset(tmp_path, views, splits={"train": names[:-1], "val": names[-1:]})
    manifest = read_manifest(tmp_path)
    shapes = {
        name: replace(mesh, geometry="" if name == "alone" else "same")
        for name, mesh in manifest.shapes.items()
    }
    write_manifest(tmp_path, replace(manifest, shapes=shapes))
    dataset = RenderedDataset(tmp_path)
    weights = dataset.weights_N(balance_groups=True)
    alone = np.array([shape_id == "alone" for shape_id in stack_samples(dataset).shape_ids])
    # The eleventh copy is in another split and counts for nothing here.
    assert weights[alone].sum() == pytest.approx(weights[~alone].sum())
    np.testing.assert_allclose(weights[~alone], weights[alone][0] / 10)
    assert dataset.weights_N(balance_groups=False) is None
    assert RenderedDataset(tmp_path, "val").weights_N(balance_groups=True) is None  # nothing to weigh


def test_weighted_order_is_exact_shared_by_ranks_and_resumed_anywhere() -> None:
    weights = np.array([0.1, 1.0, 2.5, 0.0, 3.4, 1.0])
    expected = weights / weights.sum() * 6
    one = InfiniteSampler(6, 3, weights_N=weights)
    stream = np.concatenate([one.batch(step, 4) for step in range(3000)])
    epochs = stream.reshape(-1, 6)
    counts = np.stack([np.bincount(epoch, minlength=6) for epoch in epochs])
    # In every epoch the count is one of the two whole numbers around what is due, on average exactly that.
    assert (counts >= np.floor(expected)).all() and (counts <= np.ceil(expected)).all()
    np.testing.assert_allclose(counts.mean(0), expected, atol=0.03)
    ranks = [InfiniteSampler(6, 3, rank, 2, weights) for rank in range(2)]
    for step in (0, 1, 700):
        together = np.stack([sampler.batch(step, 4) for sampler in ranks], axis=1).reshape(-1)
        np.testing.assert_array_equal(together, stream[8 * step : 8 * step + 8])
    # A fresh object in the middle of an epoch goes on as if nothing had been.
    np.testing.assert_array_equal(InfiniteSampler(6, 3, weights_N=weights).batch(701, 4), stream[2804:2808])
    assert not np.array_equal(InfiniteSampler(6, 4, weights_N=weights).batch(0, 60), stream[:60])


def test_equal_weights_are_the_plain_order() -> None:
    plain, weighted = InfiniteSampler(50, 1), InfiniteSampler(50, 1, weights_N=np.full(50, 7.0))
    drawn = [np.concatenate([sampler.batch(step, 10) for step in range(5)]) for sampler in (plain, weighted)]
    assert all(sorted(part) == list(range(50)) for part in drawn)
    for bad in (np.ones(3), np.full(50, np.nan), -np.ones(50), np.zeros(50)):
        with pytest.raises(ValueError, match="weights"):
            InfiniteSampler(50, 1, weights_N=bad)


def test_a_mirrored_image_is_the_mirrored_object_from_the_mirrored_camera(tmp_path: Path) -> None:
    """Against renders of a mesh that looks like nothing of its mirror image."""
    rng = np.random.default_rng(0)
    vertices = rng.uniform(-0.4, 0.4, (30, 3)).astype(np.float32)
    mesh = TexturedMesh(
        vertices,
        np.arange(30, dtype=np.int32).reshape(10, 3),
        rng.uniform(0, 1, (30, 2)).astype(np.float32),
        rng.integers(0, 256, (4, 4, 3), dtype=np.uint8),
    )
    renderer = MeshRenderer(CpuRasterizer(threads=1), 32, 2, Lighting.unlit())
    rotation_deg, elevation_deg = np.array([0.0, 30.0, 200.0]), np.array([5.0, 20.0, 0.0])

    def render(which: TexturedMesh, angles_B2: torch.Tensor) -> np.ndarray:
        return renderer.render(which, orbit_camera(angles_B2[:, 0], angles_B2[:, 1]))

    angles = torch.from_numpy(np.stack([np.deg2rad(rotation_deg), np.deg2rad(90 - elevation_deg)], axis=1))
    views = [View(*entry) for entry in zip(render(mesh, angles), rotation_deg, elevation_deg, strict=True)]
    write_shard_dataset(tmp_path, {"a": views}, splits={"train": ["a"]})
    dataset = RenderedDataset(tmp_path, mirror=True)
    assert len(dataset) == 6 and dataset.shape_ids == ["a"]
    np.testing.assert_allclose(dataset.angles_N2[3:, 0], np.deg2rad([0, 330, 160]), rtol=1e-6)
    mirrored = replace(mesh, vertices_V3=vertices * np.array([-1, 1, 1], np.float32))
    expected = render(mirrored, torch.from_numpy(dataset.angles_N2[3:]).double())
    found = dataset.read_batch([3, 4, 5]).rgba_B4HW.permute(0, 2, 3, 1).numpy()
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert (difference > 3).mean() < 0.01  # samples on edges may fall to the other side
    np.testing.assert_array_equal(dataset[4].rgba_4HW.numpy(), found[1].transpose(2, 0, 1))
    np.testing.assert_array_equal(dataset[1].rgba_4HW.flip(2).numpy(), found[1].transpose(2, 0, 1))


def test_shrinking_and_a_background_can_be_done_in_either_order(tmp_path: Path) -> None:
    views = make_views("a", resolution=32)
    write_shard_dataset(tmp_path, {"a": views}, splits={"train": ["a"]})
    small = RenderedDataset(tmp_path, resolution=8)
    assert small.resolution == 8
    found = to_training_tensor(small.read_batch([0, 1, 2]).rgba_B4HW, 0.2)
    whole = to_training_tensor(RenderedDataset(tmp_path).read_batch([0, 1, 2]).rgba_B4HW, 0.2)
    expected = torch.nn.functional.avg_pool2d(whole, 4)
    assert (found - expected).abs().max() < 0.03  # 8 bits
    summary = preflight(tmp_path, resolution=8)
    assert any("shrunk to 8" in warning for warning in summary.warnings)
    with pytest.raises(InputError, match="no multiple of 12"):
        RenderedDataset(tmp_path, resolution=12)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[]", "lists no `sources`"),
        ("sources: []", "lists no `sources`"),
        ("sources: [{weight: 1}]", "no `path`"),
        ("sources: [{path: cars, wieght: 1}]", "unknown"),
        ("sources: [{path: cars, weight: 0}]", "positive"),
        ("sources: [{path: cars}, {path: cars}]", "two sources are 'cars'"),
        ("sources: [{path: cars, name: a/b}]", "in front of shape ids"),
        ("sources: [{path: nowhere}]", "does not exist"),
        ("sources: [{path: cars}]\nresolution: 24", "no multiple of 24"),
        ("sources: [{path: cars}]\nresolution: true", "must be a number"),
        ("sources: [{path: cars}]\nresolutoin: 16", "unknown"),
        ("sources: [{path: cars}]\n1: 2\na: 3", "unknown"),
        ("sources: [{path: cars, weight: true}]", "positive"),
        ("sources: [{path: cars, category: 03001627}]", "category of source 0 is 787351, not a text"),
        ("sources: [{path: cars, label: 5}]", "label of source 0 is 5, not a text"),
        ("sources: [{path: cars, name: [cars]}]", "name of source 0 is .'cars'., not a text"),
        ("sources: [{path: mix.yaml, name: itself}]", "no other mixtures"),
        ("{", "cannot be read"),
    ],
)
def test_bad_mixtures_are_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    write_shard_dataset(tmp_path / "cars", {"a": make_views("a")}, splits={"train": ["a"]})
    with pytest.raises(InputError, match=words) as caught:
        open_source(mixture(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_where_one_data_set_is_needed_a_mixture_is_named_as_such(tmp_path):
    file = tmp_path / "mix.yaml"
    file.write_text("sources: []")
    with pytest.raises(InputError, match=r"mix.yaml is a file, .* of a mixture give one of its sources"):
        read_manifest(file)
    with pytest.raises(InputError, match=r"does not exist; run .* `get3d data convert --to shards`"):
        read_manifest(tmp_path)
