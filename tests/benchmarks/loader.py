"""Reading a data set for training: `python -m tests.benchmarks.loader` prints one JSON line.

A shard of 1024-pixel views of textured shapes, read and decoded by `RenderedDataset.read_batch` from the page cache. The goal
is 300 images/s on 8 cores, 37.5 per core; `images_per_cpu_s_times_8` counts the processor time that a batch took, so it
says the same on a machine that is busy with something else, `images_per_s` does not. Then formats for the same pictures:
bytes of an image, milliseconds of one core to write and to read it, and whether it comes back exactly.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from get3d_model.data.base import View
from get3d_model.data.dataset import RenderedDataset
from get3d_model.png import small_png
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer
from tests.benchmarks.render import cameras, torus
from tests.get3d_model.data.synthetic import write_shard_dataset

GOAL_PER_8_CORES = 300.0


def pictures(resolution: int, count: int) -> list[np.ndarray]:
    renderer = MeshRenderer(CpuRasterizer(), resolution, 2, Lighting())
    return [renderer.render(torus(seed), cameras(seed, 1))[0] for seed in range(count)]


def loading(folder: Path, images: list[np.ndarray], threads: int, batch: int) -> dict[str, float]:
    views = [View(rgba_HW4, 0.0, 0.0) for rgba_HW4 in images]
    write_shard_dataset(folder, {"a": views}, splits={"train": ["a"]})
    dataset = RenderedDataset(folder, threads=threads)
    order = np.arange(batch) % len(dataset)
    dataset.read_batch(order)
    wall, spent = [], []
    for _ in range(5):
        begin, cpu = time.perf_counter(), time.process_time()
        dataset.read_batch(order)
        wall.append(time.perf_counter() - begin)
        spent.append(time.process_time() - cpu)
    return {
        "images_per_s": round(batch / min(wall), 1),
        "images_per_cpu_s_times_8": round(8 * batch / min(spent), 1),
    }


def _cpu_ms(function: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        begin = time.thread_time()
        function()
        times.append(time.thread_time() - begin)
    return 1000 * min(times)


def formats(images: list[np.ndarray]) -> dict[str, dict[str, float | bool]]:
    def with_pillow(**options: object) -> Callable[[np.ndarray], bytes]:
        def write(rgba_HW4: np.ndarray) -> bytes:
            stream = io.BytesIO()
            Image.fromarray(rgba_HW4).save(stream, **options)
            return stream.getvalue()

        return write

    def jpeg_and_alpha(rgba_HW4: np.ndarray) -> bytes:
        """What a lossy layout would store: colour as JPEG; the alpha, as PNG, is counted with it."""
        colour, alpha = io.BytesIO(), io.BytesIO()
        Image.fromarray(rgba_HW4[..., :3]).save(colour, "JPEG", quality=95, subsampling=0)
        Image.fromarray(rgba_HW4[..., 3]).save(alpha, "PNG", compress_level=6)
        return len(colour.getvalue()).to_bytes(4, "big") + colour.getvalue() + alpha.getvalue()

    def read_jpeg_and_alpha(content: bytes) -> np.ndarray:
        size = int.from_bytes(content[:4], "big")
        colour = np.asarray(Image.open(io.BytesIO(content[4 : 4 + size])))
        return np.dstack([colour, np.asarray(Image.open(io.BytesIO(content[4 + size :])))])

    def read(content: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))

    candidates = {
        "png (the data sets')": (small_png, read),
        "png_pillow_level_6": (with_pillow(format="PNG", compress_level=6), read),
        "png_pillow_level_1": (with_pillow(format="PNG", compress_level=1), read),
        "webp_lossless": (with_pillow(format="WEBP", lossless=True, method=0, exact=True), read),
        "webp_quality_95": (with_pillow(format="WEBP", quality=95, method=0), read),
        "jpeg_95_and_png_alpha": (jpeg_and_alpha, read_jpeg_and_alpha),
    }
    result: dict[str, dict[str, float | bool]] = {}
    for name, (write, back) in candidates.items():
        contents = [write(rgba_HW4) for rgba_HW4 in images]
        result[name] = {
            "bytes": round(sum(map(len, contents)) / len(images)),
            "write_ms": round(_cpu_ms(lambda: [write(x) for x in images]) / len(images), 1),  # noqa: B023
            "read_ms": round(_cpu_ms(lambda: [back(x) for x in contents]) / len(images), 1),  # noqa: B023
            "exact": all(
                np.array_equal(back(content), rgba_HW4)
                for content, rgba_HW4 in zip(contents, images, strict=True)
            ),
        }
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=4, help="different ones")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    images = pictures(args.resolution, args.images)
    with tempfile.TemporaryDirectory() as name:
        figures = loading(Path(name), images, args.threads, args.batch)
    figures["goal_images_per_s_on_8_cores"] = GOAL_PER_8_CORES
    print(
        json.dumps(
            {
                "benchmark": "loader",
                "configuration": vars(args),
                "figures": {**figures, "formats": formats(images)},
                "machine": {
                    "cpu": platform.processor() or platform.machine(),
                    "cores": len(os.sched_getaffinity(0)),
                    "load_1min": round(load, 2),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
