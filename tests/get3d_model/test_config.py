"""Configuration: presets load, and every kind of mistake gives one line that names it."""

import dataclasses
from pathlib import Path

import pytest

from get3d_model.config import CONFIG_DIR, Config, config_from_dict, config_to_dict, load_config
from get3d_model.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_load(path):
    config = load_config(path)
    assert config.name == path.stem
    assert config_from_dict(config_to_dict(config)) == config


def test_params_file_is_the_demo_preset():
    """The mesh folder is the one setting that `make demo MESHES=...` changes in place."""
    ours = dataclasses.replace(load_config(ROOT / "params.yaml"), meshes=Config().meshes)
    assert ours == dataclasses.replace(load_config(CONFIG_DIR / "demo.yaml"), meshes=Config().meshes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {batch_sise: 4}", ["training.batch_sise", "did you mean batch_size"]),
        ("modle: {}", ["modle", "did you mean model"]),
        ("training: {batch_size: four}", ["training.batch_size", "int", "'four'"]),
        ("training: {batch_size: 0}", ["training", "batch_size", "0"]),
        ("training: {generator_lr: 1e-3}", ["training.generator_lr", "'1e-3'", "such as 1.0e-3"]),
        ("training: {total_kimg: .inf}", ["training.total_kimg", "finite"]),
        ("training: {total_kimg: 1" + "0" * 400 + "}", ["training.total_kimg", "finite"]),
        ("training: {seed: -1}", ["seed -1 is out of range"]),
        ("training: {ema_rampup: 0}", ["ema_rampup must be positive or null"]),
        ("model: {deformation_multiplier: 0}", ["deformation_multiplier must be positive"]),
        ("model: {channel_max: 0}", ["channel_max must be at least 1"]),
        ("model: {discriminator_channel_max: 0}", ["discriminator_channel_max must be at least 1"]),
        ("model: {tri_plane_features: 0}", ["tri_plane_features must be at least 1"]),
        ("model: {num_half_precision_blocks: -1}", ["num_half_precision_blocks must be 0 or more"]),
        ("training: {views_per_shape: 3}", ["batch_size (32)", "views_per_shape (3)"]),
        ("model: {num_classes: -1}", ["num_classes", "-1"]),
        ("training: {batch_size: true}", ["training.batch_size", "int"]),
        ("training: {early_stopping_patience: 0}", ["early_stopping_patience", "at least 1 or null", "0"]),
        ("training: {validation_images: -1}", ["validation_images", "-1"]),
        ("training: {rank_timeout_s: 0}", ["rank_timeout_s", "positive"]),
        ("training: {generator_lr: .nan}", ["training.generator_lr", "nan"]),
        ("model: {tet_res: 7}", ["model", "tet_res", "even", "7"]),
        ("model: {initial_shape: [0.1, 0.2]}", ["model.initial_shape", "3 values"]),
        ("model: {initial_shape: [0.1, 0.2, 0.9]}", ["initial_shape", "inside the grid"]),
        ("model: {image_resolution: 100}", ["image_resolution", "power of two", "100"]),
        ("render: {resolution: 64}", ["render.resolution", "model.image_resolution"]),
        ("model: 3", ["model", "mapping", "int"]),
        ("- 1", ["mapping", "list"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_file_names_the_presets(tmp_path):
    with pytest.raises(InputError, match=r"no such params file.*demo"):
        load_config(tmp_path / "nowhere.yaml")


def test_integers_are_accepted_for_floats_and_none_for_optionals():
    config = config_from_dict(
        {"training": {"total_kimg": 3, "ema_rampup": None}, "model": {"initial_shape": None}}
    )
    assert config.training.total_kimg == 3.0
    assert config.training.ema_rampup is None


def test_thresholds_are_a_list_of_checked_conditions() -> None:
    data = {"evaluation": {"thresholds": [{"metric": "fid_3d", "max": 30, "worse_than_production": 0.05}]}}
    config = config_from_dict(data)
    (threshold,) = config.evaluation.thresholds
    assert (threshold.max, threshold.min, threshold.worse_than_production) == (30.0, None, 0.05)
    assert config_from_dict(config_to_dict(config)) == config
    for bad, message in (
        ({"metric": "fid_3d"}, "fid_3d needs min, max or worse_than_production"),
        ({"metric": "cd_cov", "min": 0.5, "max": 0.1}, "min \\(0.5\\) must not be above max"),
        ({"metric": "cd_cov", "worse_than_production": -0.1}, "must not be negative"),
        ({"metric": "cd_cov", "minimum": 0.1}, "unknown setting .*minimum; did you mean min"),
    ):
        with pytest.raises(InputError, match=message):
            config_from_dict({"evaluation": {"thresholds": [bad]}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed -1 is out of range"),
        ({"surface_points": 10**9}, "surface_points must be at most 1048576"),
        ({"image_samples": 1}, "image_samples must be at least 2"),
        ({"min_references": 0}, "min_references must be at least 1"),
    ],
)
def test_evaluations_that_cannot_be_are_refused_when_they_are_read(
    values: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config_from_dict({"evaluation": values})
