"""CPU rasteriser and mesh renderer: `python -m tests.benchmarks.rasterizer` prints one JSON line.

What to expect, from the bytes to be moved (see also cpu/coverage.py): 20 000 triangles at 512 x 512 read
1.2 MB and write 4.2 MB, about 0.5 ms at 10 GB/s; setting triangles up (50 ns each) and testing the pixels of
their bounding boxes (3 ns each) is 3 ms of arithmetic on one core. So the rasteriser is bound by arithmetic.
Times are medians; `load_1min` tells whether the machine was busy with something else.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from torch import Tensor

from get3d_model.cameras import turntable
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer
from get3d_model.types import TexturedMesh
from tests.get3d_model.rendering.reference import one_range, rasterize_reference

REPEATS = 15


def median_ms(function: Callable[[], object], repeats: int = REPEATS) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)


def spheres(subdivisions: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clip-space positions, faces and ranges of a packed batch."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.9)
    points = torch.tensor(mesh.vertices, dtype=torch.float32)
    pos_V4 = torch.cat([points, torch.ones(len(points), 1)], dim=1).repeat(batch, 1)
    faces = torch.tensor(mesh.faces, dtype=torch.int32)
    faces_F3 = torch.cat([faces + index * len(points) for index in range(batch)])
    ranges = [[index * len(faces), len(faces)] for index in range(batch)]
    return pos_V4, faces_F3, torch.tensor(ranges, dtype=torch.int32)


def forward_512(threads: int) -> float:
    pos_V4, faces_F3, ranges_B2 = spheres(5, 1)
    rasterizer = CpuRasterizer(threads=threads)
    return median_ms(lambda: rasterizer.rasterize(pos_V4, faces_F3, ranges_B2, (512, 512)))


def training_step_64(threads: int) -> dict[str, float]:
    """Rasterize, interpolate, antialias and their backward passes for 16 meshes."""
    pos_V4, faces_F3, ranges_B2 = spheres(4, 16)
    pos_V4.requires_grad_()
    attributes = torch.rand(len(pos_V4), 3, requires_grad=True)
    rasterizer = CpuRasterizer(threads=threads)
    gradient = torch.rand(16, 64, 64, 3)

    def forward() -> Tensor:
        rast = rasterizer.rasterize(pos_V4, faces_F3, ranges_B2, (64, 64))
        return rasterizer.antialias(
            rasterizer.interpolate(attributes, rast, faces_F3), rast, pos_V4, faces_F3
        )

    return {
        "forward_ms": median_ms(forward),
        "forward_backward_ms": median_ms(lambda: forward().backward(gradient)),
    }


def against_numpy() -> dict[str, float]:
    """320 triangles at 64 x 64, one thread, against the brute force of the tests (float64, vectorised)."""
    pos_V4, faces_F3, _ = spheres(2, 1)
    rasterizer = CpuRasterizer(threads=1)
    ranges_12 = one_range(faces_F3.numpy())
    ours = median_ms(lambda: rasterizer.rasterize(pos_V4, faces_F3, ranges_12, (64, 64)))
    numpy = median_ms(lambda: rasterize_reference(pos_V4.numpy(), faces_F3.numpy(), 64, 64), repeats=3)
    return {"ours_ms": ours, "numpy_ms": numpy, "ratio": round(numpy / ours, 1)}


def pictures(threads: int) -> float:
    """24 views at 64 x 64 with 4 x 4 samples of 10 240 triangles with a 1024 x 1024 texture."""
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.45)
    faces_F3 = np.concatenate([mesh.faces, mesh.faces[:, ::-1]]).astype(np.int32)
    uvs_V2 = (mesh.vertices[:, :2] + 0.5).astype(np.float32)
    texture_HW3 = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    textured = TexturedMesh(mesh.vertices.astype(np.float32), faces_F3, uvs_V2, texture_HW3)
    renderer = MeshRenderer(CpuRasterizer(threads=threads), 64, 4, Lighting())
    return median_ms(lambda: renderer.render(textured, turntable(24)), repeats=5)


def main() -> None:
    figures: dict[str, object] = {"against_numpy": against_numpy()}
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        torch.set_num_threads(threads)
        figures[f"threads_{threads}"] = {
            "rasterize_20480_triangles_512_ms": forward_512(threads),
            "batch_16_of_5120_triangles_64": training_step_64(threads),
            "render_24_views_64_supersample_4_ms": pictures(threads),
        }
    print(
        json.dumps(
            {
                "benchmark": "rasterizer",
                "figures": figures,
                "machine": {
                    "cpu": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "load_1min": round(os.getloadavg()[0], 2),
                    "torch": torch.__version__,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
