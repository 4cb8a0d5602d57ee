"""`get3d generate`: textured meshes of a list of seeds, straight from a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from components.generate.common import add_model_arguments, configured
from get3d_model.entry_point import command_main

BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file, checkpoint or training folder"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the meshes")
    parser.add_argument("--seeds", default="0-15", help="seeds and ranges, such as 0-15 or 1,5,9-12")
    parser.add_argument(
        "--truncation-psi", type=float, default=0.7, help="0: the average shape, 1: no truncation"
    )
    add_model_arguments(parser)
    parser.add_argument("--texture-resolution", type=int, default=1024, help="texels along each side")
    parser.add_argument("--format", choices=("glb", "obj", "ply"), default="glb", help="file format")
    parser.add_argument(
        "--atlas", choices=("fast", "xatlas"), default="fast", help="UV unwrapping; xatlas: few charts, slow"
    )
    parser.add_argument(
        "--texture-format", choices=("png", "jpeg"), default="png", help="of a GLB; jpeg: smaller, not exact"
    )
    parser.add_argument(
        "--vertex-colors", action="store_true", help="colours at vertices, no texture: glb or ply, fastest"
    )


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from components.generate.seeds import parse_seeds
    from get3d_model.errors import InputError
    from get3d_model.inference import Sampler
    from get3d_model.limits import check_texture_resolution
    from get3d_model.mesh_io import save_mesh
    from get3d_model.rendering.grid_atlas import GridAtlas
    from get3d_model.rendering.uv_atlas import XatlasAtlas

    # A seed that is named twice is one file.
    seeds = list(dict.fromkeys(parse_seeds(args.seeds)))
    size = args.texture_resolution
    check_texture_resolution(size)
    if args.vertex_colors and args.format == "obj":
        raise InputError("--vertex-colors cannot be written as --format obj; use glb or ply")
    atlas = XatlasAtlas() if args.atlas == "xatlas" else GridAtlas()
    sampler = configured(Sampler.load(args.checkpoint, atlas=atlas), args)
    args.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(seeds), desc="generate", unit="mesh", disable=not sys.stderr.isatty()) as bar:
        for first in range(0, len(seeds), BATCH):
            batch = seeds[first : first + BATCH]
            if args.vertex_colors:
                meshes = sampler.generate_colored(batch, args.truncation_psi)
            else:
                meshes = sampler.generate(batch, args.truncation_psi, size)
            for seed, mesh in zip(batch, meshes, strict=True):
                save_mesh(mesh, args.out / f"seed{seed:04d}.{args.format}", args.texture_format)
                bar.update()
    print(f"{len(seeds)} meshes in {args.out}")


main = command_main("get3d generate", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
