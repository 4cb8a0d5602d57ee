"""Ways between shapes, neighbours and recombined codes; class-conditional samplers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model import walks
from get3d_model.config import config_to_dict
from get3d_model.errors import InputError
from get3d_model.generator import build_generator
from get3d_model.inference import Sampler
from get3d_model.weights import save_tensors
from tests.serving.tiny import CONFIG, MODEL, write_checkpoint

NAMES = ["bikes", "cars", "vans"]


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    sampler = Sampler.load(write_checkpoint(tmp_path_factory.mktemp("weights")))
    for mapping in (sampler.generator.mapping, sampler.generator.mapping_geo):
        mapping.w_avg.copy_(torch.linspace(-1, 1, 16))
    return sampler


def write_conditional(folder: Path) -> Path:
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, num_classes=3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = build_generator(config.model)
    path = folder / "generator_ema.safetensors"
    description = {"config": config_to_dict(config), "kimg": 0.0, "dataset": {"classes": NAMES}}
    save_tensors(generator.state_dict(), path, description)
    return path


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return Sampler.load(write_conditional(tmp_path_factory.mktemp("weights")))


@pytest.mark.parametrize("space", walks.SPACES)
@pytest.mark.parametrize("psi", [1.0, 0.6])
def test_a_walk_meets_its_seeds(sampler: Sampler, space: str, psi: float) -> None:
    walk = walks.interpolate(sampler, 3, 8, 5, space, psi)
    ends = sampler.styles([3, 8], psi)
    for ours, expected in ((walk.w_geo_BD, ends.w_geo_BD), (walk.w_tex_BD, ends.w_tex_BD)):
        assert len(ours) == 5
        assert torch.allclose(ours[[0, -1]], expected, atol=1e-5)
        straight = torch.lerp(expected[:1], expected[1:], torch.linspace(0, 1, 5)[:, None])
        on_the_line = torch.allclose(ours, straight, atol=1e-3)
        assert on_the_line == (space == "w"), "the way through z is bent by the mapping network"


def test_neighbours_of_a_seed(sampler: Sampler) -> None:
    """The seed's own shape first; then only the part asked for moves, more with a larger sigma."""
    original = sampler.styles([5], 0.8)
    for space in walks.SPACES:
        sizes = []
        for sigma in (0.0, 0.1, 0.5):
            near = walks.perturb(sampler, 5, 16, sigma, "geometry", space, 0.8)
            assert len(near) == 17
            assert torch.allclose(near.w_geo_BD[:1], original.w_geo_BD, atol=1e-5)
            assert torch.allclose(near.w_tex_BD, original.w_tex_BD.expand(17, -1), atol=1e-5)
            sizes.append(float((near.w_geo_BD[1:] - original.w_geo_BD).norm(dim=1).mean()))
        assert sizes[0] < 1e-4 < sizes[1] < sizes[2]
        texture = walks.perturb(sampler, 5, 3, 0.3, "texture", space)
        assert torch.allclose(texture.w_geo_BD, texture.w_geo_BD[:1].expand(4, -1), atol=1e-5)
        assert not torch.allclose(texture.w_tex_BD[1:], texture.w_tex_BD[:1].expand(3, -1), atol=1e-3)
        again, other = (walks.perturb(sampler, 5, 3, 0.3, "texture", space, noise_seed=n) for n in (0, 1))
        assert torch.equal(again.w_tex_BD, texture.w_tex_BD)
        assert not torch.allclose(other.w_tex_BD[1:], texture.w_tex_BD[1:])


def test_a_step_in_w_is_a_share_of_the_way_from_the_average(sampler: Sampler) -> None:
    """w + sigma (w' - w_avg) for w' random: the spread of the neighbours is sigma times that of w."""
    near = walks.perturb(sampler, 5, 4000, 0.25, "both", "w")
    w = sampler.styles(range(4000))
    for ours, random in ((near.w_geo_BD, w.w_geo_BD), (near.w_tex_BD, w.w_tex_BD)):
        assert torch.allclose(ours[1:].std(dim=0), 0.25 * random.std(dim=0), rtol=0.08)


def test_swapped_codes(sampler: Sampler) -> None:
    """Row by row: the geometry of the row, the texture of the column; the meshes of a row are one mesh."""
    styles = walks.swap(sampler, [1, 2], [3, 4, 5], 0.7)
    rows, columns = sampler.styles([1, 2], 0.7), sampler.styles([3, 4, 5], 0.7)
    assert len(styles) == 6
    for index in range(6):
        assert torch.allclose(styles.w_geo_BD[index], rows.w_geo_BD[index // 3], atol=1e-5)
        assert torch.allclose(styles.w_tex_BD[index], columns.w_tex_BD[index % 3], atol=1e-5)
    meshes = sampler.shapes(styles).meshes
    first, same, other = (meshes.mesh(i) for i in (0, 2, 3))
    assert np.array_equal(first.faces_F3, same.faces_F3)
    np.testing.assert_allclose(first.vertices_V3, same.vertices_V3, atol=1e-4)
    assert first.vertices_V3.shape != other.vertices_V3.shape or not np.allclose(
        first.vertices_V3, other.vertices_V3
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: walks.interpolate(s, 0, 1, 1), "at least 2 steps, not 1"),
        (lambda s: walks.interpolate(s, 0, 1, 3, "y"), "space 'y'"),
        (lambda s: walks.perturb(s, 0, 0, 0.1), "count must be at least 1, not 0"),
        (lambda s: walks.perturb(s, 0, 1, -0.1), "sigma -0.1"),
        (lambda s: walks.perturb(s, 0, 1, math.nan), "sigma nan"),
        (lambda s: walks.perturb(s, 0, 1, 0.1, "shape"), "part 'shape'"),
        (lambda s: walks.perturb(s, 0, 1, 0.1, truncation_psi=3.0), "truncation_psi 3.0"),
        (lambda s: walks.swap(s, [0], [1], class_number=0), "tiny has no classes"),
        (lambda s: s.class_number("cars"), "tiny has no classes"),
    ],
)
def test_values_out_of_range(sampler: Sampler, call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(sampler)


def test_classes_of_a_conditional_model(conditional: Sampler) -> None:
    assert conditional.identity.class_names == tuple(NAMES)
    assert conditional.class_number("vans") == conditional.class_number("2") == 2
    with pytest.raises(InputError, match="class 'boats' does not exist; tiny has bikes, cars, vans"):
        conditional.class_number("boats")
    with pytest.raises(InputError, match="class 3 does not exist"):
        conditional.styles([0], class_number=3)
    chosen = conditional.styles([1, 2, 3], class_number=1)
    assert chosen.class_B.tolist() == [1, 1, 1]
    each = conditional.styles([1, 2, 3], class_number=[0, 1, 2])
    assert torch.equal(each.w_geo_BD[1], chosen.w_geo_BD[1]) and not torch.allclose(
        each.w_geo_BD[0], chosen.w_geo_BD[0]
    )
    # Without a class a seed draws one, and its mesh says which.
    drawn = conditional.styles(range(12)).class_B
    assert set(drawn.tolist()) == {0, 1, 2}
    assert torch.equal(drawn[:5], conditional.styles(range(5)).class_B)
    assert conditional.extras(4, 0.7)["class"] == NAMES[int(drawn[4])]
    assert conditional.extras(4, 0.7, 2)["class"] == "vans"
    (mesh,) = conditional.generate([4], 0.7, 64)
    assert mesh.extras["class"] == NAMES[int(drawn[4])]


def test_walks_of_a_conditional_model(conditional: Sampler) -> None:
    walk = walks.interpolate(conditional, 1, 2, 3, "z", class_number=2)
    assert walk.class_B.tolist() == [2, 2, 2]
    assert torch.allclose(walk.w_geo_BD[-1], conditional.styles([2], class_number=2).w_geo_BD[0], atol=1e-5)
    near = walks.perturb(conditional, 1, 2, 0.2, "both", "w", 0.7, class_number=0)
    assert torch.allclose(near.w_tex_BD[0], conditional.styles([1], 0.7, 0).w_tex_BD[0], atol=1e-5)
    grid = walks.swap(conditional, [1, 2], [3, 4])
    assert grid.class_B.tolist() == conditional.styles([1, 2]).class_B.repeat_interleave(2).tolist()
    shapes = conditional.shapes(grid)
    assert len(shapes.meshes) == 4
