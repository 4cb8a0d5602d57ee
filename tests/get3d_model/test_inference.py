"""From a checkpoint to meshes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.cameras import turntable
from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.inference import Sampler, find_checkpoint, interpolate_styles
from get3d_model.limits import MAX_SEED
from get3d_model.mesh_topology import mesh_topology
from get3d_model.rendering.uv_atlas import XatlasAtlas
from get3d_model.types import TexturedMesh
from get3d_model.weights import load_tensors, save_tensors
from tests.serving.tiny import write_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def sampler(weights: Path) -> Sampler:
    sampler = Sampler.load(weights)
    # An average that is not zero, as after training.
    for mapping in (sampler.generator.mapping, sampler.generator.mapping_geo):
        mapping.w_avg.copy_(torch.linspace(-1, 1, 16))
    return sampler


def same(first: TexturedMesh, second: TexturedMesh) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("vertices_V3", "faces_F3", "uvs_V2", "texture_HW3")
    )


def test_a_seed_is_a_mesh(weights: Path) -> None:
    (first,), (again,), (other,) = (Sampler.load(weights).generate([s], 0.7, 64) for s in (3, 3, 4))
    assert same(first, again) and not same(first, other)
    assert first.extras == {
        "seed": 3,
        "truncation_psi": 0.7,
        "model": "tiny",
        "kimg": 0.0,
        "checkpoint_sha256": sha256_file(weights),
    }
    assert first.texture_HW3.shape == (64, 64, 3) and first.texture_HW3.dtype == np.uint8
    assert first.uvs_V2.min() >= 0 and first.uvs_V2.max() <= 1
    assert mesh_topology(first).faces > 20


def test_a_seed_is_a_shape_whatever_is_sampled_with_it(sampler: Sampler) -> None:
    """Up to the last bits, which other sizes of matrix products round differently."""
    together = sampler.shapes(sampler.styles(range(5), 0.7)).meshes
    for index in range(5):
        alone = sampler.shapes(sampler.styles([index], 0.7)).meshes.mesh(0)
        assert np.array_equal(alone.faces_F3, together.mesh(index).faces_F3)
        np.testing.assert_allclose(alone.vertices_V3, together.mesh(index).vertices_V3, atol=1e-4)


def test_truncation(sampler: Sampler) -> None:
    """psi 0 gives the average to every seed."""
    average = sampler.styles([0, 1], 0.0)
    assert torch.equal(average.w_geo_BD, sampler.generator.mapping_geo.w_avg.expand(2, -1))
    assert torch.equal(average.w_tex_BD, sampler.generator.mapping.w_avg.expand(2, -1))
    (first,), (second,) = (sampler.generate([seed], 0.0, 64) for seed in (0, 1))
    assert same(first, second)
    (first,), (second,) = (sampler.generate([seed], 1.0, 64) for seed in (0, 1))
    assert not same(first, second)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_out_of_range(seed: int, sampler: Sampler) -> None:
    with pytest.raises(InputError, match=f"seed {seed} is out of range"):
        sampler.generate([0, seed])


@pytest.mark.parametrize("psi", [-0.1, 2.1, float("nan"), float("inf")])
def test_psi_out_of_range(psi: float, sampler: Sampler) -> None:
    with pytest.raises(InputError, match=f"truncation_psi {psi} is out of range"):
        sampler.generate([0], psi)


def test_the_largest_values_work(sampler: Sampler) -> None:
    assert len(sampler.styles([0, MAX_SEED], 2.0)) == 2


def test_interpolation_meets_both_ends(sampler: Sampler) -> None:
    first, last = sampler.styles([0]), sampler.styles([1])
    walk = interpolate_styles(first, last, 5)
    assert torch.equal(walk.w_geo_BD[:1], first.w_geo_BD) and torch.equal(walk.w_tex_BD[-1:], last.w_tex_BD)
    assert torch.allclose(walk.w_geo_BD[2:3], (first.w_geo_BD + last.w_geo_BD) / 2)


def test_renders_show_the_shape(sampler: Sampler) -> None:
    pictures = sampler.render(sampler.styles([0, 1, 2]), turntable(3), 32)
    assert pictures.shape == (3, 32, 32, 4) and pictures.dtype == np.uint8
    covered = (pictures[..., 3] > 127).mean(axis=(1, 2))
    assert (covered > 0).all() and (covered < 0.98).all()


def make_checkpoint(folder: Path, weights: Path, step: int) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "generator_ema.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps({"step": step}))
    return folder / "generator_ema.safetensors"


def test_the_three_forms_of_a_checkpoint(weights: Path, tmp_path: Path) -> None:
    old, new = (
        make_checkpoint(tmp_path / "out" / "checkpoints" / f"{images:09d}", weights, step)
        for step, images in ((1, 900), (2, 1000))
    )
    for name in ("stale-000009000", ".000002000.1.tmp"):
        make_checkpoint(new.parent.parent / name, weights, 99)
    # Not finished: its description is missing.
    (new.parent.parent / "000003000").mkdir()
    assert find_checkpoint(old) == old
    assert find_checkpoint(old.parent) == old
    assert find_checkpoint(tmp_path / "out") == new
    for missing in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=f"{missing}: no checkpoint here; give a generator_ema"):
            find_checkpoint(missing)


def test_weights_that_do_not_fit(weights: Path, tmp_path: Path) -> None:
    tensors, description = load_tensors(weights)
    name = "mapping.fc0.weight"
    misshaped = {**description, "config": json.loads(json.dumps(description["config"]))}
    misshaped["config"]["model"]["z_dim"] = 24
    for number, (content, header, expected) in enumerate(
        [
            ({k: t for k, t in tensors.items() if k != name}, description, f"lacks {name}"),
            ({**tensors, "mapping.fc9.weight": torch.ones(2)}, description, "has mapping.fc9.weight"),
            (tensors, misshaped, r"mapping.fc0.weight has shape \(16, 16\).* needs \(16, 24\)"),
            (tensors, {}, "holds no generator; give the generator_ema.safetensors"),
            (tensors, {**description, "config": {"modle": {}}}, "unknown setting modle; did you mean model"),
            (tensors, {**description, "config": 3}, "must be a mapping"),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        save_tensors(content, path, header)
        with pytest.raises(InputError, match=expected) as error:
            Sampler.load(path)
        assert str(path) in str(error.value)


def test_a_texture_does_not_depend_on_what_is_textured_with_it(sampler: Sampler) -> None:
    """Same bits, whichever thread works on it and whatever its neighbours' sizes are."""
    shapes = sampler.shapes(sampler.styles(range(4), 0.7))
    together = sampler.textured_meshes(shapes, [0, 1, 2, 3, 1], [64, 128, 64, 256, 64])
    assert [mesh.texture_HW3.shape[0] for mesh in together] == [64, 128, 64, 256, 64]
    for mesh, index, size in zip(together, [0, 1, 2, 3, 1], [64, 128, 64, 256, 64], strict=True):
        assert same(mesh, sampler.textured_mesh(shapes, index, size))


def test_vertex_colors_are_those_of_the_field(sampler: Sampler) -> None:
    (mesh,) = sampler.generate_colored([3], 0.7)
    shapes = sampler.shapes(sampler.styles([3], 0.7))
    expected_V3 = sampler.point_colors(shapes, 0, torch.from_numpy(mesh.vertices_V3)).clamp(-1, 1).numpy()
    assert mesh.colors_V3.dtype == np.uint8 and np.ptp(mesh.colors_V3) > 20
    np.testing.assert_allclose(mesh.colors_V3 / 127.5 - 1, expected_V3, atol=1.01 / 255)
    assert np.array_equal(mesh.faces_F3, shapes.meshes.mesh(0).faces_F3)
    assert mesh.extras["seed"] == 3


def test_the_atlas_can_be_chosen(weights: Path) -> None:
    """Another atlas gives the same surface with the same colours on it."""
    fast, quality = (
        Sampler.load(weights, atlas=atlas).generate([3], 0.7, 256)[0] for atlas in (None, XatlasAtlas())
    )
    assert fast.uvs_V2.shape != quality.uvs_V2.shape or not np.array_equal(fast.uvs_V2, quality.uvs_V2)
    assert np.array_equal(fast.vertices_V3[fast.faces_F3], quality.vertices_V3[quality.faces_F3])
