"""FlexiCubes weights against the plain definition: concatenate the corner features, then the MLP."""

from __future__ import annotations

import copy

import pytest
import torch

from get3d_model.isosurface.cube_grid import CubeGrid, cube_grid
from get3d_model.networks.cube_weights import CubeWeightMLP
from get3d_model.networks.fields import ModulatedMLP
from get3d_model.networks.grid_lookup import plane_lookup
from get3d_model.ops.triplane import LatticeSamples

FEATURES, WIDTH, W_DIM, RESOLUTION = 4, 6, 5, 4


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def grid() -> CubeGrid:
    return cube_grid(RESOLUTION, 1.0)


def make_mlp(grid: CubeGrid) -> CubeWeightMLP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = CubeWeightMLP(FEATURES, WIDTH, 1, W_DIM, grid)
        for layer in mlp.layers:
            torch.nn.init.normal_(layer.bias)
    return mlp


def plain(mlp: CubeWeightMLP, features_BCN: torch.Tensor, ws: torch.Tensor, grid: CubeGrid) -> torch.Tensor:
    corners_BC8Q = features_BCN[:, :, grid.cubes_Q8.T]
    concatenated = corners_BC8Q.transpose(1, 2).flatten(1, 2)
    return ModulatedMLP.forward(mlp, concatenated, ws).transpose(1, 2) * 0.1


@pytest.mark.parametrize("in_order", [True, False])
def test_weights_and_gradients(grid: CubeGrid, in_order: bool) -> None:
    """The lattice's shifted views and, for vertices in another order, the gather."""
    order = torch.arange(len(grid.vertices_N3)) if in_order else torch.randperm(125, generator=random(0))
    if not in_order:
        place = torch.empty_like(order)
        place[order] = torch.arange(125)
        grid = CubeGrid(grid.vertices_N3[order], place[grid.cubes_Q8], RESOLUTION)
    assert bool(grid.lattices) == in_order
    features = torch.randn(2, FEATURES, 125, generator=random(1))
    ws = torch.randn(2, 2, W_DIM, generator=random(2))
    direction = torch.randn(2, RESOLUTION**3, 21, generator=random(3))
    results = []
    for evaluate in (lambda mlp, x: mlp(x, ws), lambda mlp, x: plain(mlp, x, ws, grid)):
        mlp, x = make_mlp(grid), features.clone().requires_grad_(True)
        weights = evaluate(mlp, x)
        (weights * direction).sum().backward()
        results.append([weights.detach(), x.grad, *(p.grad for p in mlp.parameters())])
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, atol=1e-5, rtol=1e-4)


def test_weights_from_plane_samples(grid: CubeGrid) -> None:
    """Products over the planes' own positions, against the features they sum to."""
    ws = torch.randn(2, 2, W_DIM, generator=random(2))
    direction = torch.randn(2, RESOLUTION**3, 21, generator=random(3))
    samples = torch.randn(2, 3 * 25, FEATURES, generator=random(4))
    results = []
    for expand in (False, True):
        mlp, x = make_mlp(grid), samples.clone().requires_grad_(True)
        lattice = LatticeSamples(x, ((5, 5, 5),))
        weights = mlp(lattice.expand() if expand else lattice, ws)
        (weights * direction).sum().backward()
        results.append([weights.detach(), x.grad, *(p.grad for p in mlp.parameters())])
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, atol=1e-5, rtol=1e-4)


def test_a_copy_keeps_its_grid(grid: CubeGrid) -> None:
    mlp = make_mlp(grid)
    features = plane_lookup(grid, 8, False)(torch.randn(1, 3 * FEATURES, 8, 8, generator=random(5)))
    ws = torch.randn(1, 2, W_DIM, generator=random(2))
    assert torch.equal(copy.deepcopy(mlp)(features, ws), mlp(features, ws))
    assert not [name for name in mlp.state_dict() if "corner" in name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("side", [6, 70])
def test_the_kernel_agrees_with_the_composition(side: int) -> None:
    """Fused on the GPU against the composition on the CPU; TF32 in the backward products: 2e-3."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = CubeWeightMLP(8, 32, 1, W_DIM, cube_grid(side, 1.0))
        for layer in mlp.layers:
            torch.nn.init.normal_(layer.bias)
    ws = torch.randn(2, 2, W_DIM, generator=random(2))
    direction = torch.randn(2, side**3, 21, generator=random(3))
    samples = torch.randn(2, 3 * (side + 1) ** 2, 8, generator=random(4))
    results = []
    for device in ("cpu", "cuda"):
        mlp.zero_grad(set_to_none=True)
        mlp.to(device)
        # A leaf of its own on either device: the first must not turn `samples` into a part of the graph.
        x = samples.clone().to(device).requires_grad_(True)
        weights = mlp(LatticeSamples(x, ((side + 1,) * 3,)), ws.to(device))
        (weights * direction.to(device)).sum().backward()
        results.append([v.cpu() for v in (weights.detach(), x.grad, *(p.grad for p in mlp.parameters()))])
    for index, (expected, ours) in enumerate(zip(*results, strict=True)):
        limit = 1e-4 if index == 0 else 2e-3
        assert (ours - expected).abs().max() < limit * expected.abs().max(), index
