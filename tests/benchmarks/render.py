"""Rendering a data set: `python -m tests.benchmarks.render [--device cuda]` prints one JSON line.

A textured mesh of 20 000 triangles (a torus, a quarter of the picture), 24 random views, 4 x 4 samples per pixel.

On the CPU: views per second of `--processes` processes that render and encode, as `get3d render` does it, and the stages of
one core. On CUDA: `--meshes` different meshes in common launches; views per second before encoding (with the stages'
times), and with the PNGs made by `--processes` processes at the same time. Needs torch, nvdiffrast, numpy, pillow and
trimesh there. `load_1min` tells whether the machine was busy with something else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import torch

from get3d_model.cameras import orbit_camera
from get3d_model.png import small_png
from get3d_model.rendering.environment import light_source
from get3d_model.types import Camera, TexturedMesh

RINGS, SIDES, TEXTURE = 200, 50, 1024
VIEWS = 24


def torus(seed: int = 0) -> TexturedMesh:
    """20 000 triangles with a texture of soft noise."""
    rng = np.random.default_rng(seed)
    u, v = np.meshgrid(np.linspace(0, 1, RINGS + 1), np.linspace(0, 1, SIDES + 1), indexing="ij")
    radius = 0.28 + 0.11 * np.cos(2 * np.pi * v)
    position_V3 = np.stack(
        [radius * np.cos(2 * np.pi * u), 0.11 * np.sin(2 * np.pi * v), radius * np.sin(2 * np.pi * u)], -1
    ).reshape(-1, 3)
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces_F3 = np.concatenate([np.stack([a, d, c], -1), np.stack([a, c, b], -1)]).reshape(-1, 3)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, TEXTURE // 16, TEXTURE // 16)))
    fine = torch.nn.functional.interpolate(coarse, size=(TEXTURE, TEXTURE), mode="bilinear")
    texture_HW3 = fine[0].permute(1, 2, 0).byte().contiguous().numpy()
    return TexturedMesh(
        position_V3.astype(np.float32),
        faces_F3.astype(np.int32),
        np.stack([u, v], -1).reshape(-1, 2).astype(np.float32),
        texture_HW3,
    )


def cameras(seed: int, views: int = VIEWS) -> Camera:
    rng = np.random.default_rng(seed)
    return orbit_camera(
        torch.from_numpy(rng.uniform(0, 2 * np.pi, views)),
        torch.from_numpy(rng.uniform(np.pi / 3, np.pi / 2, views)),
    )


_renderer: Any = None


def _start(resolution: int, samples: int, light: str) -> None:
    """A worker: imports, and compiles the kernels."""
    global _renderer
    from get3d_model.rendering.cpu import CpuRasterizer
    from get3d_model.rendering.mesh_renderer import MeshRenderer

    torch.set_num_threads(1)
    _renderer = MeshRenderer(CpuRasterizer(threads=1), resolution, samples, light_source(light))
    _renderer.render(torus(), cameras(0, 1))


def _render_and_encode(seed: int, views: int) -> tuple[float, float, int]:
    """(seconds of rendering, of encoding, bytes) of a mesh."""
    mesh, camera = torus(seed), cameras(seed, views)
    begin = time.perf_counter()
    rgba_BHW4 = _renderer.render(mesh, camera)
    middle = time.perf_counter()
    size = sum(len(small_png(rgba_HW4)) for rgba_HW4 in rgba_BHW4)
    return middle - begin, time.perf_counter() - middle, size


def on_cpu(resolution: int, samples: int, light: str, processes: int, meshes: int) -> dict[str, Any]:
    views = VIEWS if resolution <= 256 else 6
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start, (resolution, samples, light)
    ) as pool:
        list(pool.map(_render_and_encode, range(processes), [1] * processes))  # all have started
        begin = time.perf_counter()
        results = list(pool.map(_render_and_encode, range(meshes), [views] * meshes))
        wall = time.perf_counter() - begin
    count = meshes * views
    return {
        "views_per_s": round(count / wall, 2),
        "render_ms_per_view_and_core": round(1000 * sum(result[0] for result in results) / count, 1),
        "encode_ms_per_view_and_core": round(1000 * sum(result[1] for result in results) / count, 1),
        "png_bytes": round(sum(result[2] for result in results) / count),
    }


def _encode_shared(name: str, index: int, resolution: int) -> int:
    """Encodes picture `index` of a shared block; unregistered, because the owner removes the block."""
    block = _BLOCKS.get(name)
    if block is None:
        block = _BLOCKS[name] = shared_memory.SharedMemory(name)
    size = resolution * resolution * 4
    rgba_HW4 = np.frombuffer(block.buf, np.uint8, size, index * size).reshape(resolution, resolution, 4)
    return len(small_png(rgba_HW4))


_BLOCKS: dict[str, shared_memory.SharedMemory] = {}


def on_cuda(resolution: int, samples: int, light: str, processes: int, meshes: int) -> dict[str, Any]:
    from get3d_model.rendering.batch_inputs import device_mesh
    from get3d_model.rendering.batch_renderer import BatchRenderer
    from get3d_model.rendering.select import make_rasterizer

    device = torch.device("cuda", 0)
    seconds = {"rasterize": 0.0, "all": 0.0}

    class Timed:
        """The rasteriser with its time; only for the run that takes the stages apart."""

        def __init__(self) -> None:
            self.inner = make_rasterizer(device)

        def rasterize(self, *arguments: Any) -> torch.Tensor:
            result, spent = timed(lambda: self.inner.rasterize(*arguments))
            seconds["rasterize"] += spent
            return result

    def timed(function: Callable[[], Any]) -> tuple[Any, float]:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        result = function()
        torch.cuda.synchronize()
        return result, time.perf_counter() - begin

    source = light_source(light)
    renderer = BatchRenderer(make_rasterizer(device), resolution, samples, source, device)
    shapes = [torus(seed) for seed in range(meshes)]
    views = [cameras(seed) for seed in range(meshes)]
    count = meshes * VIEWS

    def render(which: BatchRenderer, prepared: list[Any]) -> list[torch.Tensor]:
        return list(which.render_batch(prepared, views))

    prepared = [device_mesh(mesh, device) for mesh in shapes]
    render(renderer, prepared)  # compiles, and grows the rasteriser's buffers
    torch.cuda.reset_peak_memory_stats()
    prepare_s = min(timed(lambda: [device_mesh(mesh, device) for mesh in shapes])[1] for _ in range(3))
    render_s = min(timed(lambda: render(renderer, prepared))[1] for _ in range(5))
    pictures = render(renderer, prepared)
    host = torch.empty((count, resolution, resolution, 4), dtype=torch.uint8, pin_memory=True)
    copy_s = min(timed(lambda: host.copy_(torch.cat(pictures), non_blocking=True))[1] for _ in range(3))
    stages = BatchRenderer(Timed(), resolution, samples, source, device)
    render(stages, prepared)
    seconds["rasterize"] = 0.0
    apart_s = timed(lambda: render(stages, prepared))[1]
    peak = torch.cuda.max_memory_allocated()

    # Rendering and encoding at the same time: launches go into a shared block, processes make PNGs of them.
    block = shared_memory.SharedMemory(create=True, size=count * resolution * resolution * 4)
    try:
        into = torch.from_numpy(np.frombuffer(block.buf, np.uint8)).view(count, resolution, resolution, 4)
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            warm = [pool.submit(_encode_shared, block.name, 0, resolution) for _ in range(4 * processes)]
            [job.result() for job in warm]
            begin, jobs, done = time.perf_counter(), [], 0
            for rgba_IHW4 in renderer.render_batch([device_mesh(mesh, device) for mesh in shapes], views):
                into[done : done + len(rgba_IHW4)] = rgba_IHW4.cpu()
                jobs += [
                    pool.submit(_encode_shared, block.name, done + k, resolution)
                    for k in range(len(rgba_IHW4))
                ]
                done += len(rgba_IHW4)
            handed_over_s = time.perf_counter() - begin
            size = sum(job.result() for job in jobs)
            whole_s = time.perf_counter() - begin
        del into
    finally:
        block.close()
        block.unlink()
    picture_HW4 = host[0].numpy()
    return {
        "views_per_s": round(count / (prepare_s + render_s + copy_s), 1),
        "views_per_s_rendering_only": round(count / render_s, 1),
        "views_per_s_with_encoding": round(count / whole_s, 1),
        "rendering_done_after_share_of_that_time": round(handed_over_s / whole_s, 3),
        "prepare_ms_per_mesh": round(1000 * prepare_s / meshes, 2),
        "rasterize_ms_per_view": round(1000 * seconds["rasterize"] / count, 3),
        "project_and_shade_ms_per_view": round(1000 * (apart_s - seconds["rasterize"]) / count, 3),
        "copy_to_host_ms_per_view": round(1000 * copy_s / count, 3),
        "covered_share": round(float((picture_HW4[..., 3] > 0).mean()), 3),
        "torch_peak_gib": round(peak / 2**30, 2),
        "png_bytes": round(size / count),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--resolution", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--supersample", type=int, nargs="+", default=[4])
    parser.add_argument("--light", default="studio", help="as `get3d render --light`")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--meshes", type=int, help="4 on the CPU, 16 on CUDA unless given")
    args = parser.parse_args(argv)
    measure = on_cpu if args.device == "cpu" else on_cuda
    meshes = args.meshes or (4 if args.device == "cpu" else 16)
    load = os.getloadavg()[0]
    figures = {
        f"{resolution}px_{samples}x{samples}": measure(
            resolution, samples, args.light, args.processes, meshes
        )
        for resolution in args.resolution
        for samples in args.supersample
    }
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(load, 2),
        "torch": torch.__version__,
    }
    if args.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    configuration = {
        "device": args.device,
        "triangles": 2 * RINGS * SIDES,
        "texture": TEXTURE,
        "views": VIEWS,
        "meshes": meshes,
        "processes": args.processes,
        "light": args.light,
    }
    print(
        json.dumps(
            {"benchmark": "render", "configuration": configuration, "figures": figures, "machine": machine}
        )
    )


if __name__ == "__main__":
    main()
