"""Data sets: `python -m tests.benchmarks.dataset` prints one JSON line.

The render step on procedural tori, and how long its workers take to start. Then reading what it wrote: cold
(the tars dropped from the page cache, where the system obeys), from the page cache, and decoded in memory.
Opening the data set by its index and by scanning the tars; one and more decoding threads at larger sizes.
What to expect: decoding a 64 px PNG is 50 microseconds, opening it as much; a cached sample is a 16 KB copy.
`load_1min` tells whether the machine was busy with something else.
"""

from __future__ import annotations

import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np

from components.render.job import render_dataset
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.data.base import View
from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.preflight import preflight
from get3d_model.data.shards import INDEX_NAME
from get3d_model.mesh_io import save_mesh
from get3d_model.types import TexturedMesh
from tests.get3d_model.data.synthetic import write_shard_dataset

SHAPES, VIEWS, RESOLUTION, WORKERS, BATCH = 48, 24, 64, 2, 32
RINGS, SIDES = 48, 24
TRIANGLES = 2 * RINGS * SIDES


def save_torus(path: Path, seed: int) -> None:
    """A torus with a noise texture."""
    rng = np.random.default_rng(seed)
    u, v = np.meshgrid(np.linspace(0, 1, RINGS + 1), np.linspace(0, 1, SIDES + 1), indexing="ij")
    radius = 1.0 + rng.uniform(0.2, 0.5) * np.cos(2 * np.pi * v)
    position = np.stack(
        [
            radius * np.cos(2 * np.pi * u),
            rng.uniform(0.2, 0.5) * np.sin(2 * np.pi * v),
            radius * np.sin(2 * np.pi * u),
        ],
        axis=-1,
    )
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, d, c], -1), np.stack([a, c, b], -1)]).reshape(-1, 3)
    texture = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    uvs = np.stack([u, v], axis=-1).reshape(-1, 2)
    mesh = TexturedMesh(
        position.reshape(-1, 3).astype(np.float32), faces.astype(np.int32), uvs.astype(np.float32), texture
    )
    save_mesh(mesh, path)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def read_all(dataset: RenderedDataset, order: np.ndarray) -> None:
    for first in range(0, len(order), BATCH):
        dataset.read_batch(order[first : first + BATCH])


def drop_from_page_cache(root: Path) -> None:
    for path in root.rglob("*.tar"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def reading(folder: Path, resolution: int) -> dict[str, float]:
    """Images per second from the page cache by number of threads, over noise in the middle of the picture."""
    rng = np.random.default_rng(0)
    rgba = np.zeros((resolution, resolution, 4), np.uint8)
    middle = slice(resolution // 4, 3 * resolution // 4)
    blocks = rng.integers(0, 256, (resolution // 16, resolution // 16, 3), dtype=np.uint8)
    rgba[middle, middle, :3] = blocks.repeat(8, axis=0).repeat(8, axis=1)
    rgba[middle, middle, 3] = 255
    out = write_shard_dataset(
        folder / f"r{resolution}", {"a": [View(rgba, 0.0, 0.0)] * 64}, splits={"train": ["a"]}
    )
    result = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        dataset = RenderedDataset(out, threads=threads)
        best = min(seconds(lambda: dataset.read_batch(range(64))) for _ in range(3))  # noqa: B023
        result[f"threads_{threads}"] = round(64 / best, 1)
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as name, redirect_stderr(io.StringIO()):
        folder = Path(name)
        meshes, out = folder / "meshes", folder / "out"
        for seed in range(SHAPES):
            save_torus(meshes / f"torus{seed}.glb", seed)
        save_torus(folder / "one/torus.glb", 0)
        options = RenderOptions(meshes, out, PixelSettings(VIEWS, RESOLUTION), workers=WORKERS)
        render_dataset(replace(options, meshes=folder / "one", out=folder / "first"))  # compiles the kernels
        start = render_dataset(replace(options, meshes=folder / "one", out=folder / "again")).seconds
        whole = render_dataset(options).seconds
        images = SHAPES * VIEWS
        order = np.random.default_rng(0).permutation(images)
        dataset = RenderedDataset(out, None)
        cached = RenderedDataset(out, None, cache_bytes=2**30)
        read_all(cached, order)
        drop_from_page_cache(out)
        figures = {
            "render_views_per_s": round(images / whole, 1),
            "render_views_per_s_after_start": round((images - VIEWS) / (whole - start), 1),
            "render_start_s": round(start, 2),
            "render_up_to_date_s": round(seconds(lambda: render_dataset(options)), 4),
            "cold_images_per_s": round(images / seconds(lambda: read_all(dataset, order)), 1),
            "warm_images_per_s": round(images / seconds(lambda: read_all(dataset, order)), 1),
            "cached_images_per_s": round(images / seconds(lambda: read_all(cached, order)), 1),
            "open_s": round(seconds(lambda: RenderedDataset(out, None)), 4),
            "preflight_s": round(seconds(lambda: preflight(out, resolution=RESOLUTION)), 4),
        }
        (out / INDEX_NAME).unlink()
        figures["open_by_scanning_s"] = round(seconds(lambda: RenderedDataset(out, None)), 4)
        by_resolution = {resolution: reading(folder, resolution) for resolution in (256, 1024)}
    result = {
        "benchmark": "dataset",
        "configuration": {
            "shapes": SHAPES,
            "views": VIEWS,
            "resolution": RESOLUTION,
            "supersample": PixelSettings().supersample,
            "triangles": TRIANGLES,
            "workers": WORKERS,
            "batch": BATCH,
        },
        "figures": {**figures, "warm_images_per_s_by_resolution": by_resolution},
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
