"""From a seed to a mesh in memory, and how long each stage takes; one JSON line.

python -m tests.benchmarks.sampling [--preset demo|car_1024] [--device cpu|cuda] [--checkpoint F] [--psi 0.7]

Medians of single shapes, each of another seed, in milliseconds; without --checkpoint from an untrained generator of
the preset. "ready" means the bytes of a GLB with a texture of 1024 texels a side (or with vertex colours) are in
memory. Both atlases texture the same shapes; the batch figure is milliseconds per mesh for 8 shapes together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from get3d_model.cameras import turntable
from get3d_model.config import CONFIG_DIR, load_config
from get3d_model.errors import InputError
from get3d_model.generator import build_generator
from get3d_model.image_codec import IMAGE_TYPES
from get3d_model.inference import ModelIdentity, Sampler, Shapes
from get3d_model.mesh_io import mesh_bytes
from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.grid_atlas import GridAtlas
from get3d_model.rendering.select import make_rasterizer
from get3d_model.rendering.texture_bake import find_texels, to_byte_tensor
from get3d_model.rendering.uv_atlas import UvAtlas, XatlasAtlas
from get3d_model.types import TexturedMesh

TEXTURE = 1024
BATCH = 8


class Stopwatch:
    """Collects durations by name; waits for the device at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times_ms: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.times_ms[name].append(1e3 * (time.perf_counter() - start))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def medians(self) -> dict[str, float]:
        return {name: round(statistics.median(times), 2) for name, times in self.times_ms.items()}


def random_sampler(preset: str, device: torch.device) -> Sampler:
    config = load_config(CONFIG_DIR / f"{preset}.yaml")
    torch.manual_seed(0)
    generator = build_generator(config.model)
    identity = ModelIdentity(f"{config.name}, untrained", 0.0, "0" * 64)
    return Sampler(generator, config, identity, rasterizer_of(device), device)


def rasterizer_of(device: torch.device) -> Rasterizer | None:
    """None where there is no rasteriser: only images need one."""
    try:
        return make_rasterizer(device)
    except InputError as error:
        print(f"no images: {error}", file=sys.stderr)
        return None


def stages(
    sampler: Sampler, atlas: UvAtlas, seed: int, psi: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """(milliseconds by stage, facts) of one textured GLB; the stages one after the other."""
    watch = Stopwatch(sampler.device)
    synthesis = sampler.generator.synthesis
    with torch.no_grad():
        with watch.stage("networks"):
            styles = sampler.styles([seed], psi)
            geometry, planes_tex, ws_tex = sampler.networks(styles)
        with watch.stage("extraction"):
            meshes = synthesis.extractor(geometry.sdf_BN, geometry.deform_BN3)
            shapes = Shapes(meshes, geometry.empty_B, planes_tex, ws_tex)
            mesh = meshes.mesh(0)
        with watch.stage("atlas"):
            unwrapped = atlas.unwrap(mesh, TEXTURE, torch.get_num_threads())
        with watch.stage("bake"):
            with watch.stage("bake_texels"):
                needed = find_texels(unwrapped, TEXTURE, sampler.device, torch.get_num_threads())
            with watch.stage("bake_field"):
                color_T3 = to_byte_tensor(sampler.point_colors(shapes, 0, needed.points_T3))
            with watch.stage("bake_fill"):
                texture_HH3 = needed.texture(color_T3)
        with watch.stage("encode"):
            textured = TexturedMesh(
                unwrapped.mesh.vertices_V3, unwrapped.mesh.faces_F3, unwrapped.uvs_W2, texture_HH3
            )
            content = mesh_bytes(textured, "glb")
        others = {}
        for image_format in IMAGE_TYPES:
            with watch.stage(f"encode_{image_format}"):
                others[image_format] = len(mesh_bytes(textured, "glb", image_format))
    facts = {
        "faces": len(mesh.faces_F3),
        "vertices": len(mesh.vertices_V3),
        "vertices_split": len(textured.vertices_V3),
        "needed_texels": len(needed.points_T3),
        "covered": round(float(_covered(textured)), 3),
        "bytes": {**others, "chosen": len(content)},
    }
    return watch.medians(), facts


def _covered(mesh: TexturedMesh) -> float:
    """Share of the atlas that faces take."""
    a, b, c = mesh.uvs_V2.astype(np.float64)[mesh.faces_F3].swapaxes(0, 1)
    return 0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum()


def median_of(dicts: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in dicts), 2) for name in dicts[0]}


def median_ms(device: torch.device, function: Callable[[int], object], seeds: range) -> float:
    watch = Stopwatch(device)
    for seed in (seeds[0], *seeds):
        with watch.stage("all"):
            function(seed)
    return round(statistics.median(watch.times_ms["all"][1:]), 2)


def machine(device: torch.device) -> dict[str, Any]:
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": named,
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset", default="demo", help="a params file of get3d_model/configs, without .yaml"
    )
    parser.add_argument("--checkpoint", type=Path, help="trained weights instead of an untrained preset")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recorded", action="store_true", help="networks as CUDA graphs (only with cuda)")
    parser.add_argument("--psi", type=float, default=0.7)
    parser.add_argument("--shapes", type=int, default=9, help="seeds measured, after one to warm up")
    args = parser.parse_args()
    device = torch.device(args.device)
    sampler = (
        Sampler.load(args.checkpoint, device) if args.checkpoint else random_sampler(args.preset, device)
    )
    if args.recorded:
        sampler.record_networks()
    seeds, psi = range(args.shapes), args.psi

    def shapes_of(first: int, count: int = 1) -> Shapes:
        return sampler.shapes(sampler.styles(range(first, first + count), psi))

    def textured_batch(first: int) -> None:
        shapes = shapes_of(first, BATCH)
        for mesh in sampler.textured_meshes(shapes, range(BATCH), [TEXTURE] * BATCH):
            mesh_bytes(mesh, "glb")

    camera = turntable(1)
    figures: dict[str, Any] = {
        "mesh_only": median_ms(device, lambda s: shapes_of(s).meshes.mesh(0), seeds),
        "mesh_with_vertex_colors_ready": median_ms(
            device, lambda s: mesh_bytes(sampler.generate_colored([s], psi)[0], "glb"), seeds
        ),
    }
    if sampler.rasterizer is not None:
        figures["one_image"] = median_ms(
            device, lambda s: sampler.render(sampler.styles([s], psi), camera), seeds
        )
    facts = {}
    for name, atlas in (("fast", GridAtlas()), ("xatlas", XatlasAtlas())):
        sampler.atlas = atlas
        few = seeds if name == "fast" else seeds[:3]
        figures[f"textured_glb_{TEXTURE}_ready_{name}"] = median_ms(
            device, lambda s: mesh_bytes(sampler.generate([s], psi, TEXTURE)[0], "glb"), few
        )
        measured = [stages(sampler, atlas, seed, psi) for seed in few]
        figures[f"stages_{name}"] = median_of([times for times, _ in measured])
        facts[name] = measured[0][1]
    sampler.atlas = GridAtlas()
    batch_ms = median_ms(device, textured_batch, range(0, 3))
    figures[f"textured_glb_{TEXTURE}_per_mesh_of_{BATCH}"] = round(batch_ms / BATCH, 2)
    figures["xatlas_to_fast"] = {
        "ready": round(figures[f"textured_glb_{TEXTURE}_ready_xatlas"] / figures[f"textured_glb_{TEXTURE}_ready_fast"], 1),
        "atlas": round(figures["stages_xatlas"]["atlas"] / figures["stages_fast"]["atlas"], 1),
    }  # fmt: skip
    configuration = {
        "model": sampler.identity.name,
        "kimg": sampler.identity.kimg,
        "texture": TEXTURE,
        "psi": psi,
    }
    print(
        json.dumps(
            {
                "benchmark": "sampling",
                "configuration": configuration,
                "shape_0": facts,
                "ms": figures,
                "machine": machine(device),
            }
        )
    )


if __name__ == "__main__":
    main()
