"""Pictures for FID and KID: what they show, that a seed repeats them, and the cache of their features."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.cameras import UniformOrbit
from get3d_model.data.dataset import RenderedDataset
from get3d_model.inference import Sampler
from get3d_model.metrics.image_sets import (
    GeneratedImages,
    batch_drawer,
    cached_features,
    mesh_drawer,
    one_camera,
    real_images,
)
from get3d_model.rendering.select import make_rasterizer
from tests.serving.tiny import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def images(checkpoint: Path) -> GeneratedImages:
    return GeneratedImages(Sampler.load(checkpoint), UniformOrbit(), 3, 1.0, 32, 1.0, 64)


def test_real_images_lie_over_the_background(tiny_data: Path) -> None:
    dataset = RenderedDataset(tiny_data, "val")
    (whole,) = real_images(dataset, range(len(dataset)), dataset.resolution, 1.0)
    rgba = np.stack([dataset[i].rgba_4HW.numpy() for i in range(len(dataset))]).transpose(0, 2, 3, 1)
    alpha = rgba[..., 3:] / 255.0
    np.testing.assert_allclose(whole, rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1.0)
    (half,) = real_images(dataset, [0], dataset.resolution // 2, 1.0)
    assert half.shape[1:] == (dataset.resolution // 2, dataset.resolution // 2, 3)
    assert half.mean() == pytest.approx(whole[0].mean(), abs=2.0)
    with pytest.raises(ValueError, match="cannot be shown at 64"):
        next(real_images(dataset, [0], 64, 1.0))


def test_the_meshes_look_as_the_generator_draws_them(images: GeneratedImages) -> None:
    """Same shapes, same cameras, same colours: the two sets differ by the texture and by edges only."""
    (drawn,), (rendered,) = images.feature_images(4), images.mesh_images(4)
    assert drawn.shape == rendered.shape == (4, 32, 32, 3) and drawn.dtype == rendered.dtype == np.uint8
    # The background of an untrained generator has a colour of its own; that of meshes is white.
    shape = (rendered != 255).any(axis=-1)
    assert 0.1 < shape.mean() < 0.9
    assert np.median(np.abs(drawn.astype(int) - rendered.astype(int))[shape]) <= 2
    assert np.corrcoef(drawn[shape].ravel(), rendered[shape].ravel())[0, 1] > 0.93
    background = drawn[~shape]
    assert background.std(axis=0).max() < 8, "the silhouettes are the same: outside there is only background"


HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.gpu
@pytest.mark.skipif(
    not (INTERPRETED or (HAS_TRITON and torch.cuda.is_available())),
    reason="NOT RUN: FID-3D's pictures on a GPU need Triton with a GPU, or TRITON_INTERPRET=1",
)
def test_meshes_drawn_on_the_gpu_look_as_on_the_cpu(images: GeneratedImages, checkpoint: Path) -> None:
    """A whole batch at once, with a mesh that has no faces among them."""
    device = torch.device("cpu" if INTERPRETED else "cuda")
    sampler = images.sampler
    shapes = sampler.shapes(sampler.styles(range(3), 1.0))
    meshes = sampler.textured_meshes(shapes, range(3), [64] * 3)
    meshes.insert(1, replace(meshes[0], faces_F3=meshes[0].faces_F3[:0]))
    cameras = [one_camera(images.all_cameras(4), i) for i in range(4)]
    expected = mesh_drawer(sampler.rasterizer, 32, sampler.device)(meshes, cameras)
    found = batch_drawer(make_rasterizer(device), 32, device)(meshes, cameras)
    assert found.shape == expected.shape and not found[1].any() and found[[0, 2, 3]].any(axis=(1, 2, 3)).all()
    difference = np.abs(found.astype(int) - expected.astype(int))
    # nvdiffrast may decide single samples on edges otherwise.
    assert difference.mean() < (0.05 if INTERPRETED else 0.3)
    assert (difference.max(axis=-1) > 2).mean() < (0.005 if INTERPRETED else 0.03)
    if not INTERPRETED:
        (whole,) = replace(images, sampler=Sampler.load(checkpoint, device)).mesh_images(3)
        (alone,) = images.mesh_images(3)
        assert np.abs(whole.astype(int) - alone.astype(int)).mean() < 0.5


def test_a_seed_repeats_its_images(images: GeneratedImages) -> None:
    first, again, fewer = (np.concatenate(list(images.feature_images(n))) for n in (20, 20, 3))
    np.testing.assert_array_equal(first, again)
    others = np.concatenate(list(replace(images, first_seed=4).feature_images(3)))
    assert (others != fewer).any()


def test_features_come_from_the_cache_until_the_key_changes(tmp_path: Path) -> None:
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.full((2, 3), len(calls), np.float32)

    for key, expected, cached in (({"a": 1}, 1, False), ({"a": 1}, 1, True), ({"a": 2}, 2, False)):
        features, found = cached_features(tmp_path, key, compute)
        assert (features == expected).all() and found is cached
    for file in (tmp_path / "features").iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    features, found = cached_features(tmp_path, {"a": 1}, compute)
    assert (features == 3).all() and not found
    assert all(not f.name.startswith(".") for f in (tmp_path / "features").iterdir())
    unwritable = tmp_path / "file"
    unwritable.write_text("x")
    features, found = cached_features(unwritable, {"a": 1}, compute)
    assert (features == 4).all() and not found
