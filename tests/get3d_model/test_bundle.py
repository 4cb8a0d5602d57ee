"""A whole model in one file: every part comes back, half precision costs no grid, and it samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from components.export.main import export
from get3d_model.bundle import GRID_PREFIX, Parts, is_bundle, load_parts, save_bundle
from get3d_model.config import Config, config_to_dict
from get3d_model.errors import InputError
from get3d_model.generator import build_generator
from get3d_model.inference import Sampler
from get3d_model.isosurface.grid import TetrahedralGrid
from get3d_model.mesh_io import mesh_bytes
from get3d_model.weights import load_tensors, save_tensors
from serving.repository import check_repository
from tests.components.published import KIMG, kuhn_grid, plain_config, random_parts, write_bundle


@pytest.fixture(scope="module")
def config() -> Config:
    return plain_config()


@pytest.fixture(scope="module")
def with_grid(config: Config) -> Parts:
    """The parts of a model on a grid of its own, a distorted one, so that no regular grid will do."""
    vertices, tets = (torch.from_numpy(array) for array in kuhn_grid(config.model.tet_res))
    vertices = vertices + 0.02 * torch.sin(9 * vertices.roll(1, dims=1)) * (vertices.abs() < 0.49)
    grid = TetrahedralGrid(vertices, tets, config.model.tet_res, stored=True)
    parts = random_parts(config)
    for part in ("G_ema", "G"):
        generator = build_generator(config.model, grid)
        generator.load_state_dict(parts[part], strict=False)
        parts[part] = generator.state_dict()
    return parts


def header(config: Config) -> dict:
    return {"config": config_to_dict(config), "kimg": KIMG}


def test_every_part_comes_back(config: Config, tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "a.safetensors", config)
    parts, description = load_parts(tmp_path / "a.safetensors")
    assert is_bundle(tmp_path / "a.safetensors") and description["kimg"] == KIMG
    assert parts.keys() == written.keys()
    for part in parts:
        assert parts[part].keys() == written[part].keys()
        assert all(torch.equal(parts[part][name], written[part][name]) for name in written[part])
    assert load_parts(tmp_path / "a.safetensors", ["D"])[0].keys() == {"D"}


def test_parts_may_share_their_tensors(config: Config, tmp_path: Path) -> None:
    parts = random_parts(config)
    parts["G"] = parts["G_ema"]
    save_bundle(parts, tmp_path / "a.safetensors", header(config))
    loaded, _ = load_parts(tmp_path / "a.safetensors")
    for part in ("G", "G_ema"):
        assert all(torch.equal(loaded[part][name], parts[part][name]) for name in parts[part])


def test_half_precision_is_half_the_size_and_read_as_float32(config: Config, tmp_path: Path) -> None:
    parts = write_bundle(tmp_path / "full.safetensors", config)
    write_bundle(tmp_path / "half.safetensors", config, half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.62 * sizes[1]
    for part, state in load_parts(tmp_path / "half.safetensors")[0].items():
        for name, tensor in state.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, parts[part][name].half().float())
    parts["D"]["b4.out.bias"] = torch.full_like(parts["D"]["b4.out.bias"], 1e6)
    with pytest.raises(InputError, match=r"D b4\.out\.bias does not fit into half precision"):
        save_bundle(parts, tmp_path / "big.safetensors", header(config), half=True)
    assert not (tmp_path / "big.safetensors").exists()


def test_a_checkpoint_folder_has_the_same_parts(config: Config, tmp_path: Path) -> None:
    written = random_parts(config)
    for part, file in (("G_ema", "generator_ema"), ("G", "generator"), ("D", "discriminator")):
        save_tensors(written[part], tmp_path / f"{file}.safetensors", header(config))
    assert not is_bundle(tmp_path / "generator_ema.safetensors")
    parts, _ = load_parts(tmp_path / "generator_ema.safetensors")
    for part in ("G_ema", "G", "D"):
        assert all(torch.equal(parts[part][name], written[part][name]) for name in written[part])


@pytest.mark.parametrize("half", [False, True])
def test_a_grid_of_its_own_travels(config: Config, with_grid: Parts, tmp_path: Path, half: bool) -> None:
    save_bundle(with_grid, tmp_path / "a.safetensors", header(config), half)
    names = [n for n in load_tensors(tmp_path / "a.safetensors")[0] if GRID_PREFIX in n]
    assert len(names) == 2, "once for all parts"
    parts, _ = load_parts(tmp_path / "a.safetensors")
    for part in ("G_ema", "G"):
        for name in ("vertices_N3", "tets_T4"):
            assert torch.equal(parts[part][GRID_PREFIX + name], with_grid[part][GRID_PREFIX + name])
    sampler = Sampler.load(tmp_path / "a.safetensors")
    grid = sampler.generator.synthesis.extractor.grid
    assert torch.equal(grid.vertices_N3, with_grid["G_ema"][GRID_PREFIX + "vertices_N3"])
    (mesh,) = sampler.generate([3], 1.0, 64)
    assert len(mesh.faces_F3) > 0


def test_triton_gets_the_generator_alone(config: Config, with_grid: Parts, tmp_path: Path) -> None:
    save_bundle(with_grid, tmp_path / "a.safetensors", header(config), half=True)
    folder = export(tmp_path / "a.safetensors", tmp_path / "repository").folder
    check_repository(tmp_path / "repository")
    tensors, _ = load_tensors(folder / "generator_ema.safetensors")
    assert tensors.keys() == with_grid["G_ema"].keys()
    meshes = [Sampler.load(p).generate([5], 0.7, 64)[0] for p in (folder, tmp_path / "a.safetensors")]
    first, second = (dataclasses.replace(mesh, extras={}) for mesh in meshes)
    assert mesh_bytes(first, "glb") == mesh_bytes(second, "glb")
    assert not export(tmp_path / "a.safetensors", tmp_path / "repository").created


def test_a_damaged_grid_is_named(config: Config, with_grid: Parts, tmp_path: Path) -> None:
    name = GRID_PREFIX + "tets_T4"
    state = with_grid["G_ema"]
    for broken in (state[name] + 10**6, state[name][:, :3], state[name].float(), state[name][:0]):
        save_bundle({"G_ema": {**state, name: broken}}, tmp_path / "a.safetensors", header(config))
        with pytest.raises(InputError, match=r"a\.safetensors: its grid .* is damaged"):
            Sampler.load(tmp_path / "a.safetensors")
