"""Settings from shapes and names, against the published ones where they are at hand and our own modules always."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from get3d_model.bundle import Parts
from get3d_model.config import ModelConfig
from get3d_model.errors import InputError
from get3d_model.generator import build_generator
from get3d_model.networks.discriminator import Discriminator
from get3d_model.ops.resample import low_pass_kernel
from get3d_model.published_model import (
    discriminator_settings,
    from_published,
    generator_settings,
    to_published,
)
from get3d_model.weights import load_module
from tests.components.published import plain_config, random_parts
from tests.parity.weights import reference_weight

FOLDER = Path(__file__).parents[3] / "shared" / "parity"
GENERATORS = (
    "unified_dmtet_full", "unified_dmtet_small", "unified_dmtet_small_n3", "unified_flexicubes_small", "separate_dmtet",
)  # fmt: skip
WITH_ARRAYS = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference is not beside this checkout")


@pytest.fixture(scope="module")
def parts() -> Parts:
    return random_parts(plain_config())


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def published_state(case: dict) -> dict[str, torch.Tensor]:
    return {
        name: low_pass_kernel()
        if name.endswith("resample_filter")
        else reference_weight(case["salt"], name, tuple(shape))
        for name, shape in case["shapes"].items()
    }


@WITH_ARRAYS
@pytest.mark.parametrize("name", GENERATORS)
def test_published_generators(name: str) -> None:
    case = json.loads((FOLDER / f"{name}.json").read_text())
    published, state = case["config"], published_state(case)
    settings = generator_settings(shapes_of(state))
    assert settings == {
        "generator": "unified" if published["one_3d_generator"] else "separate",
        "isosurface": published["iso_surface"],
        "z_dim": published["z_dim"],
        "w_dim": published["w_dim"],
        "mapping_layers": published["mapping_kwargs"]["num_layers"],
        "tri_plane_resolution": published["tri_plane_resolution"],
        "tri_plane_features": 32,
        "channel_base": published["channel_base"],
        "channel_max": published["channel_max"],
        "mlp_hidden_layers": published["n_implicit_layer"],
        "mlp_width": published["mlp_latent_channel"],
        "texture_features": published["feat_channel"],
        **({} if published["one_3d_generator"] else {"volume_channel_base": 2048, "volume_channel_max": 256}),
    }
    module = build_generator(ModelConfig(**settings, tet_res=8, image_resolution=16))
    ours, left_out = from_published(state, module.state_dict())
    assert not left_out
    load_module(module, ours, FOLDER / name)
    back = to_published(module.state_dict())
    assert shapes_of(back) == shapes_of(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@WITH_ARRAYS
def test_published_discriminator() -> None:
    case = json.loads((FOLDER / "discriminator_small.json").read_text())
    published, state = case["config"], published_state(case)
    settings = discriminator_settings(shapes_of(state))
    assert settings == {
        "image_resolution": published["img_resolution"],
        "discriminator_channel_base": published["channel_base"],
        "discriminator_channel_max": published["channel_max"],
    }
    module = Discriminator(*settings.values())
    ours, left_out = from_published(state, module.state_dict())
    assert not left_out
    load_module(module, ours, FOLDER)
    back = to_published(module.state_dict())
    assert shapes_of(back) == shapes_of(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": "separate", "volume_channel_base": 128, "volume_channel_max": 16},
        {"isosurface": "flexicubes"},
        {"generator": "separate", "isosurface": "flexicubes"},
        {"mlp_hidden_layers": 3, "mlp_width": 24, "texture_features": 5},
        {"z_dim": 8, "w_dim": 24, "mapping_layers": 3, "tri_plane_features": 4},
        {"tri_plane_resolution": 32, "channel_base": 128, "channel_max": 32},
        {"image_resolution": 32, "discriminator_channel_base": 64, "discriminator_channel_max": 8},
    ],
)
def test_settings_are_found_again(changes: dict[str, int]) -> None:
    config = plain_config()
    model = dataclasses.replace(config.model, **changes)
    parts = random_parts(dataclasses.replace(config, model=model, render=dataclasses.replace(
        config.render, resolution=model.image_resolution)))  # fmt: skip
    found = generator_settings(shapes_of(to_published(parts["G_ema"])))
    found |= discriminator_settings(shapes_of(to_published(parts["D"])))
    assert dataclasses.replace(model, **found) == model
    assert len(found) == (17 if model.generator == "separate" else 15)


def test_there_and_back(parts: Parts) -> None:
    for state in parts.values():
        published = to_published(state)
        assert len(published) > len(state)
        back, left_out = from_published({**published, "dmtet.indices": torch.ones(1)}, state)
        assert left_out == ["dmtet.indices"]
        assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_other_models_are_refused_by_name(parts: Parts) -> None:
    generator, discriminator = shapes_of(parts["G_ema"]), shapes_of(parts["D"])

    def without(shapes: dict, *names: str) -> dict:
        return {name: shape for name, shape in shapes.items() if not name.startswith(names)}

    planes = "synthesis.generator.tri_plane_synthesis"
    for shapes, expected in (
        ({}, "G_ema lacks mapping.fc0.weight"),
        ({**generator, "mapping.embed.weight": (16, 3)}, "conditioned on a class"),
        ({**generator, "mapping.fc0.weight": (16,)}, r"mapping.fc0.weight has shape \(16,\)"),
        (without(generator, "mapping.fc0"), "G_ema lacks mapping.fc0"),
        (without(generator, "synthesis.to_rgb"), "G_ema lacks synthesis.to_rgb"),
        (without(generator, f"{planes}.b8"), r"blocks at the resolutions \[4, 16\]"),
        ({**generator, f"{planes}.b8.conv1.weight": (7, 7, 3, 3)}, "do not follow min"),
        (without(generator, "synthesis.generator.mlp_synthesis_tex.layers.0"), "are numbered"),
    ):
        with pytest.raises(InputError, match=expected):
            generator_settings(shapes)
    for shapes, expected in (
        (without(discriminator, "mapping"), "D lacks mapping.embed.weight"),
        ({**discriminator, "mapping.embed.weight": (16, 17)}, "conditioned on 17 values"),
        (without(discriminator, "mapping.fc7"), "has 7 mapping layers"),
        ({**discriminator, "b16.fromrgb.weight": (16, 4, 1, 1)}, "sees 4 colour channels"),
    ):
        with pytest.raises(InputError, match=expected):
            discriminator_settings(shapes)
