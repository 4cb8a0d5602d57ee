"""From a checkpoint to meshes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import binary_dilation

from get3d_model.cameras import turntable
from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.inference import Sampler, find_checkpoint, interpolate_styles
from get3d_model.limits import MAX_SEED
from get3d_model.mesh_topology import mesh_topology
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.texture_bake import bake_texture
from get3d_model.rendering.uv_atlas import unwrap
from get3d_model.types import Mesh, TexturedMesh
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


def position_field(points_T3: torch.Tensor) -> torch.Tensor:
    """A smooth colour of the position, in [-1, 1]."""
    return torch.sin(points_T3 * torch.tensor([4.0, 3.0, 5.0]))


@pytest.fixture(scope="module")
def baked() -> TexturedMesh:
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.45)
    mesh = Mesh(sphere.vertices.astype(np.float32), sphere.faces.astype(np.int32))
    return bake_texture(CpuRasterizer(), unwrap(mesh, 256), 256, position_field, torch.device("cpu"))


def bilinear(texture_HW3: np.ndarray, uv_N2: np.ndarray) -> np.ndarray:
    """The lookup of a viewer: texel centres at half-integers, v up."""
    size = texture_HW3.shape[0]
    x, y = uv_N2[:, 0] * size - 0.5, (1 - uv_N2[:, 1]) * size - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    result = 0.0
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = np.abs(1 - dx - (x - x0)) * np.abs(1 - dy - (y - y0))
        texel = texture_HW3[np.clip(y0 + dy, 0, size - 1), np.clip(x0 + dx, 0, size - 1)].astype(float)
        result = result + weight[:, None] * texel
    return result


def test_baking_reproduces_the_field_everywhere(baked: TexturedMesh) -> None:
    """20,000 surface points, seams and chart borders among them."""
    random = np.random.default_rng(0)
    faces = random.integers(0, len(baked.faces_F3), 20_000)
    weight = random.dirichlet(np.ones(3), len(faces))[:, :, None]
    corners = baked.faces_F3[faces]
    points = (baked.vertices_V3[corners] * weight).sum(axis=1)
    uvs = (baked.uvs_V2[corners] * weight).sum(axis=1)
    expected = (position_field(torch.from_numpy(points)).double().numpy() + 1) * 127.5
    error = np.abs(bilinear(baked.texture_HW3, uvs) - expected)
    # A texel is some 0.006 of the sphere's world; the field changes by up to 5 * 127.5 levels per unit.
    assert error.mean() < 1.0
    assert np.quantile(error, 0.999) < 6.0
    assert error.max() < 14.0


def test_texels_around_charts_are_padded(baked: TexturedMesh) -> None:
    """No texel keeps the empty white: each repeats a neighbour's colour, so mip-maps do not bleed."""
    size = baked.texture_HW3.shape[0]
    clip = np.ones((len(baked.uvs_V2), 4), np.float32)
    clip[:, 0], clip[:, 1], clip[:, 2] = baked.uvs_V2[:, 0] * 2 - 1, 1 - baked.uvs_V2[:, 1] * 2, 0
    ranges = torch.tensor([[0, len(baked.faces_F3)]], dtype=torch.int32)
    rast = CpuRasterizer().rasterize(
        torch.from_numpy(clip), torch.from_numpy(baked.faces_F3), ranges, (size, size)
    )
    covered = (rast[0, ..., 3] > 0).numpy()
    assert 0.3 < covered.mean() < 0.95
    ring = binary_dilation(covered, iterations=2) & ~covered
    assert ring.sum() > 500
    colours = {tuple(texel) for texel in baked.texture_HW3[covered]}
    assert all(tuple(texel) in colours for texel in baked.texture_HW3[~covered])
    assert not (baked.texture_HW3[ring] == 255).all(axis=1).any()
    # Beside a covered texel stands a colour near to it.
    for y, x in np.argwhere(binary_dilation(covered) & ~covered)[::20]:
        near = covered[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        texels = baked.texture_HW3[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2][near].astype(int)
        assert np.abs(texels - baked.texture_HW3[y, x].astype(int)).max(axis=1).min() == 0


def test_charts_do_not_overlap(baked: TexturedMesh) -> None:
    """The areas of all triangles in the atlas add up to what they cover together."""
    a, b, c = baked.uvs_V2[baked.faces_F3].astype(np.float64).swapaxes(0, 1)
    area = 0.5 * np.abs(np.cross(b - a, c - a)).sum()
    size = 2048
    clip = np.ones((len(baked.uvs_V2), 4), np.float32)
    clip[:, :2], clip[:, 2] = baked.uvs_V2 * 2 - 1, 0
    ranges = torch.tensor([[0, len(baked.faces_F3)]], dtype=torch.int32)
    rast = CpuRasterizer().rasterize(
        torch.from_numpy(clip), torch.from_numpy(baked.faces_F3), ranges, (size, size)
    )
    assert float((rast[..., 3] > 0).float().mean()) == pytest.approx(area, rel=2e-3)


def test_an_empty_mesh_is_textured_white() -> None:
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    textured = bake_texture(CpuRasterizer(), unwrap(empty, 64), 64, position_field, torch.device("cpu"))
    assert len(textured.faces_F3) == len(textured.uvs_V2) == 0
    assert (textured.texture_HW3 == 255).all() and textured.texture_HW3.shape == (64, 64, 3)
