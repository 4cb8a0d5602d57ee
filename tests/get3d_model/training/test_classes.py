"""Class-conditional training from a data set of two classes; what a checkpoint says of classes and of w_avg."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from get3d_model.config import Config, config_to_dict
from get3d_model.errors import InputError
from get3d_model.inference import Sampler, find_checkpoint
from get3d_model.latents import average_w
from get3d_model.training.distributed import World
from get3d_model.training.trainer import Trainer
from get3d_model.version import source_commit
from get3d_model.weights import load_tensors
from tests.get3d_model.data.synthetic import make_views, write_published_dataset
from tests.get3d_model.data.test_classes import label_shards
from tests.get3d_model.training.tiny import tiny_config, write_dataset

ALONE = World(0, 1, torch.device("cpu"))


def conditional(classes: int, **training: object) -> Config:
    config = tiny_config(2, **training)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=classes))


def test_training_by_class(tmp_path: Path) -> None:
    """Every network learns from the class; the checkpoint knows the names, and continues."""
    data = label_shards(write_dataset(tmp_path / "data"))
    trainer = Trainer(conditional(2, w_avg_samples=300, views_per_shape=2), data, tmp_path / "out", ALONE)
    modules = trainer.modules
    networks = {"G": modules.generator, "D": modules.discriminator}

    def embeddings() -> dict[str, torch.Tensor]:
        return {
            f"{network}.{name}": parameter.detach().clone()
            for network, module in networks.items()
            for name, parameter in module.named_parameters()
            if name.endswith("embed.weight")
        }

    before = embeddings()
    assert len(before) == 4, "of two mapping networks in each"
    folder = trainer.run()
    for name, weight in embeddings().items():
        assert bool((weight[:, -2:] != before[name][:, -2:]).any(dim=0).all()), (
            f"{name} has not learned a class"
        )
    sampler = Sampler.load(folder)
    assert sampler.identity.class_names == ("bikes", "cars")
    assert sampler.class_number("cars") == 1
    pictures = [sampler.styles([3], class_number=number).w_geo_BD for number in (0, 1)]
    assert not torch.allclose(*pictures)
    again = Trainer(conditional(2, w_avg_samples=300, views_per_shape=2), data, tmp_path / "out", ALONE)
    assert again.resume() == folder and again.step == 2


def test_classes_of_the_published_layout(tmp_path: Path) -> None:
    for name in ("chair", "car"):
        shapes = {f"{name}{i}": make_views(f"{name}{i}") for i in range(3)}
        write_published_dataset(tmp_path / "data", shapes, name)
    folder = Trainer(conditional(2), tmp_path / "data", tmp_path / "out", ALONE).run()
    assert Sampler.load(folder).identity.class_names == ("car", "chair")


def test_another_number_of_classes(tmp_path: Path) -> None:
    data = label_shards(write_dataset(tmp_path / "data"))
    with pytest.raises(
        InputError, match=r"num_classes is 3, but .* has 2 classes \(bikes, cars\); set it to 2"
    ):
        Trainer(conditional(3), data, tmp_path / "out", ALONE)


def test_the_average_of_a_checkpoint_is_that_of_its_weights(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    trainer = Trainer(tiny_config(2), data, tmp_path / "out", ALONE)
    moving = trainer.modules.generator_ema.mapping.w_avg
    folder = trainer.run()
    tensors, description = load_tensors(find_checkpoint(folder))
    assert description["w_avg_samples"] == 100_000
    assert description["training_commit"] == source_commit()
    ema = trainer.modules.generator_ema
    assert torch.equal(tensors["mapping.w_avg"], average_w(ema.mapping, 100_000, 0))
    assert torch.equal(tensors["mapping_geo.w_avg"], average_w(ema.mapping_geo, 100_000, 1))
    assert not torch.allclose(tensors["mapping.w_avg"], moving, atol=1e-3), (
        "two steps have not moved the average far"
    )
    # The average of training goes on by itself.
    generator, _ = load_tensors(folder / "generator.safetensors")
    assert torch.equal(generator["mapping.w_avg"], moving)
    off = Trainer(tiny_config(2, w_avg_samples=0), data, tmp_path / "off", ALONE)
    tensors, _ = load_tensors(find_checkpoint(off.run()))
    assert torch.equal(tensors["mapping.w_avg"], off.modules.generator_ema.mapping.w_avg)


def test_a_batch_of_a_process_is_a_whole_number_of_shapes(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    config: Config = tiny_config(1, views_per_shape=4)
    assert config_to_dict(config)["training"]["views_per_shape"] == 4
    with pytest.raises(InputError, match=r"the 2 images of a process .* training.views_per_shape 4"):
        Trainer(config, data, tmp_path / "out", World(0, 2, torch.device("cpu")))
