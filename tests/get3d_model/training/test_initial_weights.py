"""Starting from another run's weights: which are taken, when they are not, and what must agree."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from get3d_model.bundle import GRID_PREFIX, save_bundle
from get3d_model.config import Config, config_to_dict
from get3d_model.errors import InputError
from get3d_model.generator import build_generator
from get3d_model.isosurface.grid import TetrahedralGrid
from get3d_model.training.checkpoint import TrainedModules, list_checkpoints
from get3d_model.training.distributed import World
from get3d_model.training.trainer import Trainer
from tests.components.published import kuhn_grid, plain_config, random_parts, write_bundle
from tests.get3d_model.training.tiny import checkpoint_tensors

ONE_PROCESS = World(0, 1, torch.device("cpu"))


def assert_holds(modules: TrainedModules, part: str, expected: dict[str, torch.Tensor]) -> None:
    module = {"G_ema": modules.generator_ema, "G": modules.generator, "D": modules.discriminator}[part]
    state = module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def start(config: Config, data: Path, out: Path, init_from: Path | None, **options: bool) -> Trainer:
    trainer = Trainer(config, data, out, ONE_PROCESS, init_from)
    trainer.resume(**options)
    return trainer


@pytest.mark.parametrize("half", [False, True])
def test_all_three_start_from_the_file(
    tiny_data: Path, tmp_path: Path, half: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plain_config()
    parts = write_bundle(tmp_path / "a.safetensors", config, half=half)
    trainer = start(config, tiny_data, tmp_path / "out", tmp_path / "a.safetensors")
    for part, state in parts.items():
        assert_holds(trainer.modules, part, {n: t.half().float() if half else t for n, t in state.items()})
    assert trainer.step == trainer.images_seen == 0 and not trainer.modules.generator_optimizer.state
    assert (
        f"starting from the weights of {tmp_path / 'a.safetensors'}, trained for 12.5 kimg"
        in capsys.readouterr().out
    )
    assert trainer.run() == tmp_path / "out" / "checkpoints" / "000000004"


def test_without_g_the_average_starts_both(tiny_data: Path, tmp_path: Path) -> None:
    config = plain_config()
    parts = random_parts(config)
    del parts["G"]
    save_bundle(parts, tmp_path / "a.safetensors", {"config": config_to_dict(config), "kimg": 0})
    trainer = start(config, tiny_data, tmp_path / "out", tmp_path / "a.safetensors")
    assert_holds(trainer.modules, "G", parts["G_ema"])
    assert_holds(trainer.modules, "G_ema", parts["G_ema"])


def test_a_training_folder_can_be_started_from_and_goes_first(tiny_data: Path, tmp_path: Path) -> None:
    config = plain_config()
    first = start(config, tiny_data, tmp_path / "first", None)
    first.run()
    (folder,) = list_checkpoints(tmp_path / "first")
    second = start(config, tiny_data, tmp_path / "second", tmp_path / "first")
    assert_holds(second.modules, "G", first.modules.generator.state_dict())
    assert_holds(second.modules, "D", first.modules.discriminator.state_dict())
    # Neither used nor needed where --out has a checkpoint of its own, as after an interruption.
    before = checkpoint_tensors(folder)
    resumed = start(config, tiny_data, tmp_path / "first", tmp_path / "gone.safetensors")
    assert resumed.images_seen == 4
    assert torch.equal(resumed.modules.generator.mapping.w_avg, before["generator/mapping.w_avg"])
    # Starting afresh is a start.
    parts = write_bundle(tmp_path / "b.safetensors", config)
    changed = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=7))
    afresh = start(changed, tiny_data, tmp_path / "first", tmp_path / "b.safetensors", restart_on_change=True)
    assert_holds(afresh.modules, "D", parts["D"])


def test_what_is_wrong_with_a_checkpoint_in_out_does_not_stop_a_fresh_start(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = plain_config()
    folder = start(config, tiny_data, tmp_path / "out", None).run()
    (folder / "generator_ema.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        start(config, tiny_data, tmp_path / "out", None)
    changed = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=7))
    parts = write_bundle(tmp_path / "a.safetensors", config)
    afresh = start(changed, tiny_data, tmp_path / "out", tmp_path / "a.safetensors", restart_on_change=True)
    assert_holds(afresh.modules, "G", parts["G"])


def test_what_differs_is_named(tiny_data: Path, tmp_path: Path) -> None:
    config = plain_config()
    write_bundle(tmp_path / "a.safetensors", config)
    model = dataclasses.replace(config.model, mlp_width=8, mirror_symmetry=True, num_half_precision_blocks=0)
    other = dataclasses.replace(config, model=model)
    with pytest.raises(
        InputError,
        match=r"a\.safetensors: is another model \(model\.mlp_width is 16 there and 8 here; "
        r"model\.mirror_symmetry is False there and True here\); give",
    ):
        start(other, tiny_data, tmp_path / "out", tmp_path / "a.safetensors")
    same = dataclasses.replace(config, model=dataclasses.replace(config.model, num_half_precision_blocks=0))
    start(same, tiny_data, tmp_path / "out", tmp_path / "a.safetensors")


def test_files_training_cannot_start_from(tiny_data: Path, tmp_path: Path) -> None:
    config = plain_config()
    parts = random_parts(config)
    header = {"config": config_to_dict(config), "kimg": 0}
    save_bundle({"G_ema": parts["G_ema"]}, tmp_path / "sampler.safetensors", header)
    save_bundle(parts, tmp_path / "foreign.safetensors", {})
    lacking = {**parts, "D": {n: t for n, t in parts["D"].items() if n != "b4.out.bias"}}
    save_bundle(lacking, tmp_path / "lacking.safetensors", header)
    for name, expected in (
        ("sampler.safetensors", "holds no D, so training cannot start"),
        ("foreign.safetensors", "holds no model"),
        ("lacking.safetensors", r"lacks b4\.out\.bias"),
        ("missing.safetensors", "no checkpoint here"),
    ):
        with pytest.raises(InputError, match=expected):
            start(config, tiny_data, tmp_path / "out", tmp_path / name)


def test_a_grid_of_its_own_is_trained_on_and_resumed(tiny_data: Path, tmp_path: Path) -> None:
    config = plain_config(2)
    vertices, tets = (torch.from_numpy(array) for array in kuhn_grid(config.model.tet_res))
    grid = TetrahedralGrid(vertices, tets, config.model.tet_res, stored=True)
    parts = random_parts(config)
    generator = build_generator(config.model, grid)
    generator.load_state_dict(parts["G_ema"], strict=False)
    parts["G_ema"] = generator.state_dict()
    save_bundle(parts, tmp_path / "a.safetensors", {"config": config_to_dict(config), "kimg": 0})
    start(config, tiny_data, tmp_path / "out", tmp_path / "a.safetensors").run()
    (tmp_path / "a.safetensors").unlink()
    resumed = start(plain_config(3), tiny_data, tmp_path / "out", tmp_path / "a.safetensors")
    assert resumed.images_seen == 8
    for module in (resumed.modules.generator, resumed.modules.generator_ema):
        assert torch.equal(module.synthesis.extractor.grid.vertices_N3, vertices)
    resumed.run()
    final = checkpoint_tensors(list_checkpoints(tmp_path / "out")[-1])
    assert torch.equal(final[f"generator/{GRID_PREFIX}tets_T4"], tets)
    # Another resolution needs another grid: then the run starts afresh on ours.
    model = dataclasses.replace(config.model, tet_res=6)
    afresh = start(
        dataclasses.replace(config, model=model), tiny_data, tmp_path / "out", None, restart_on_change=True
    )
    assert afresh.modules.generator.synthesis.extractor.grid.lattices
