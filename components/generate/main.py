"""`get3d generate`: textured meshes of a list of seeds, straight from a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from components.generate.common import add_model_arguments, configured

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


def run(args: argparse.Namespace) -> None:
    import sys

    from tqdm import tqdm

    from components.generate.seeds import parse_seeds
    from get3d_model.inference import Sampler
    from get3d_model.limits import check_texture_resolution
    from get3d_model.mesh_io import save_mesh

    seeds = parse_seeds(args.seeds)
    size = args.texture_resolution
    check_texture_resolution(size)
    sampler = configured(Sampler.load(args.checkpoint), args)
    args.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(seeds), desc="generate", unit="mesh", disable=not sys.stderr.isatty()) as bar:
        for first in range(0, len(seeds), BATCH):
            batch = seeds[first : first + BATCH]
            for seed, mesh in zip(batch, sampler.generate(batch, args.truncation_psi, size), strict=True):
                save_mesh(mesh, args.out / f"seed{seed:04d}.{args.format}")
                bar.update()
    print(f"{len(seeds)} meshes in {args.out}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
