"""`get3d interpolate`: a walk from one seed to another: a mesh per step and a strip of renders."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file, checkpoint or training folder"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the meshes and strip.png")
    parser.add_argument("--from-seed", type=int, default=0, help="seed of the first shape")
    parser.add_argument("--to-seed", type=int, default=1, help="seed of the last shape")
    parser.add_argument("--steps", type=int, default=7, help="shapes on the walk, both ends counted")
    parser.add_argument(
        "--truncation-psi", type=float, default=0.7, help="0: the average shape, 1: no truncation"
    )
    parser.add_argument("--texture-resolution", type=int, default=512, help="texels along each side")
    parser.add_argument("--view-resolution", type=int, default=256, help="pixels of one render of the strip")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from components.generate.strip import mesh_pictures
    from get3d_model.errors import InputError
    from get3d_model.image_grid import save_image
    from get3d_model.inference import Sampler, interpolate_styles, with_extras
    from get3d_model.limits import check_texture_resolution
    from get3d_model.mesh_io import save_mesh

    if args.steps < 2:
        raise InputError(f"--steps {args.steps} must be at least 2")
    size = args.texture_resolution
    check_texture_resolution(size)
    sampler = Sampler.load(args.checkpoint)
    first, last = (sampler.styles([seed], args.truncation_psi) for seed in (args.from_seed, args.to_seed))
    shapes = sampler.shapes(interpolate_styles(first, last, args.steps))
    meshes = []
    for step in range(args.steps):
        mesh = sampler.textured_mesh(shapes, step, size)
        extras = sampler.extras(args.from_seed, args.truncation_psi)
        extras |= {"to_seed": args.to_seed, "weight": step / (args.steps - 1)}
        meshes.append(with_extras(mesh, extras))
        save_mesh(meshes[-1], args.out / f"step{step:02d}.glb")
    save_image(np.concatenate(mesh_pictures(meshes, args.view_resolution), axis=1), args.out / "strip.png")
    print(f"{args.steps} meshes and strip.png in {args.out}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
