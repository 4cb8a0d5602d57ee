"""The same bits in every run, with every number of threads, from several callers at once."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from get3d_model.parallel_for import parallel_for
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.cpu.connectivity import edge_rings


def scene(views: int, tiled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Several views; all of the same vertices, or of their own copy of the mesh each."""
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    points = torch.tensor(mesh.vertices, dtype=torch.float32)
    faces = torch.tensor(mesh.faces, dtype=torch.int32)
    copies = views if tiled else 1
    pos = torch.cat([points, torch.ones(len(points), 1)], 1).repeat(copies, 1)
    pos[:, :2] += 0.1 * torch.randn(pos.shape[0], 2, generator=torch.Generator().manual_seed(0))
    packed = torch.cat([faces + copy * len(points) for copy in range(copies)])
    ranges = [[view * len(faces) if tiled else 0, len(faces)] for view in range(views)]
    return pos, packed, torch.tensor(ranges, dtype=torch.int32)


def run(rasterizer: CpuRasterizer, pos: Tensor, faces: Tensor, ranges: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    pos = pos.clone().requires_grad_()
    attributes = torch.rand(len(pos), 3, generator=generator, requires_grad=True)
    rast = rasterizer.rasterize(pos, faces, ranges, (48, 40))
    image = rasterizer.antialias(rasterizer.interpolate(attributes, rast, faces), rast, pos, faces)
    (image * torch.rand(image.shape, generator=generator)).sum().backward()
    return [rast.detach(), image.detach(), pos.grad, attributes.grad]


@pytest.mark.parametrize("tiled", [True, False])
def test_bits_do_not_depend_on_run_threads_or_concurrent_callers(tiled: bool) -> None:
    arguments = scene(3, tiled)
    expected = run(CpuRasterizer(threads=1), *arguments)
    assert all(tensor.abs().sum() > 0 for tensor in expected)
    rasterizers = [CpuRasterizer(threads=threads) for threads in (1, 2, 3, 7, 2, 3)]
    with ThreadPoolExecutor(3) as callers:
        for result in callers.map(lambda rasterizer: run(rasterizer, *arguments), rasterizers):
            for got, want in zip(result, expected, strict=True):
                assert torch.equal(got, want)


def test_shared_vertices_get_the_sum_of_the_separate_gradients() -> None:
    pos, faces, ranges = scene(3, tiled=False)
    tiled = run(CpuRasterizer(), *scene(3, tiled=True))
    del tiled  # warm: the pool has been used before the sums are compared
    shared = pos.clone().requires_grad_()
    weight = torch.rand(3, 48, 40, 2, generator=torch.Generator().manual_seed(2))
    rasterizer = CpuRasterizer(threads=2)
    (rasterizer.rasterize(shared, faces, ranges, (48, 40))[..., :2] * weight).sum().backward()
    total = torch.zeros_like(pos)
    for view in range(3):
        single = pos.clone().requires_grad_()
        rast = rasterizer.rasterize(single, faces, ranges[view : view + 1], (48, 40))
        (rast[..., :2] * weight[view : view + 1]).sum().backward()
        total += single.grad
    torch.testing.assert_close(shared.grad, total, rtol=1e-5, atol=1e-4)


def _sum_in_child(queue: multiprocessing.Queue, arguments: tuple[Tensor, Tensor, Tensor]) -> None:
    # By value (numpy): torch would hand tensors over by shared memory that ends with the child.
    queue.put(run(CpuRasterizer(threads=2), *arguments)[2].numpy())


def test_works_in_a_forked_worker_after_use_in_the_parent() -> None:
    arguments = scene(2, tiled=True)
    expected = run(CpuRasterizer(threads=2), *arguments)[2].numpy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own OpenMP pool does not survive a fork
    try:
        child = context.Process(target=_sum_in_child, args=(queue, arguments))
        child.start()
        got = queue.get(timeout=60)
        child.join(timeout=60)
    finally:
        torch.set_num_threads(torch_threads)
    np.testing.assert_array_equal(got, expected)


def test_edge_rings_against_sorting_and_independent_of_threads() -> None:
    rng = np.random.default_rng(0)
    mesh = trimesh.creation.icosphere(subdivisions=4)
    # An open mesh with some non-manifold edges: some faces removed, some repeated on a new vertex.
    faces_F3 = mesh.faces[rng.permutation(len(mesh.faces))[:4000]].astype(np.int32)
    extra_N3 = faces_F3[:300].copy()
    extra_N3[:, 2] = len(mesh.vertices) + np.arange(300)
    faces_F3 = np.concatenate([faces_F3, extra_N3])
    vertices = int(faces_F3.max()) + 1
    ring_E = edge_rings(faces_F3, vertices, 1)
    for threads in (2, 5):
        np.testing.assert_array_equal(edge_rings(faces_F3, vertices, threads), ring_E)
    edges_E2 = np.sort(np.stack([faces_F3, np.roll(faces_F3, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    _, group_E, counts = np.unique(edges_E2, axis=0, return_inverse=True, return_counts=True)
    assert set(counts) >= {1, 2, 3}
    # Walking once around every ring stays within the edge and returns after exactly its multiplicity.
    position_E = np.arange(len(ring_E))
    for step in range(1, counts.max() + 1):
        position_E = ring_E[position_E]
        np.testing.assert_array_equal(group_E[position_E].ravel(), group_E.ravel())
        home_E = position_E == np.arange(len(ring_E))
        np.testing.assert_array_equal(home_E, step % counts[group_E.ravel()] == 0)


def test_parallel_for_runs_every_unit_once_and_passes_errors_on() -> None:
    for units in (0, 1, 2, 5, 17):
        for threads in (1, 2, 4):
            seen = np.zeros(units, int)

            def kernel(first: int, end: int, seen: np.ndarray = seen) -> None:
                seen[first:end] += 1

            parallel_for(kernel, units, threads)
            np.testing.assert_array_equal(seen, 1)

    def failing(first: int, end: int) -> None:
        if first <= 0 < end:
            raise ArithmeticError("unit 0")

    with pytest.raises(ArithmeticError, match="unit 0"):
        parallel_for(failing, 8, 3)
