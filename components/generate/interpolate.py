"""`get3d interpolate`: a walk from one seed to another: a mesh per step, a strip of renders, an animation."""

from __future__ import annotations

import argparse
import sys

from components.generate import common
from get3d_model.entry_point import command_main

STRIP_FILE, ANIMATION_FILE = "strip.png", "walk.webp"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, f"{STRIP_FILE} and {ANIMATION_FILE}")
    parser.add_argument("--from-seed", type=int, default=0, help="seed of the first shape")
    parser.add_argument("--to-seed", type=int, default=1, help="seed of the last shape")
    parser.add_argument("--steps", type=int, default=7, help="shapes on the walk, both ends counted")
    parser.add_argument(
        "--space", choices=("w", "z"), default="w", help="w: straight and even; z: on the sphere of the codes"
    )


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from components.generate.animation import save_animation
    from components.generate.strip import mesh_pictures
    from get3d_model import walks
    from get3d_model.errors import InputError
    from get3d_model.image_grid import save_image
    from get3d_model.inference import with_extras
    from get3d_model.mesh_io import save_mesh

    if not 2 <= args.steps <= 1000:
        raise InputError(f"--steps {args.steps} must be 2 to 1000")
    sampler = common.load_sampler(args)
    ends, psi = (args.from_seed, args.to_seed), args.truncation_psi
    styles = walks.interpolate(sampler, *ends, args.steps, args.space, psi)
    meshes, names = [], []
    for step, mesh in enumerate(common.textured_meshes(sampler, styles, args.texture_resolution)):
        extras = sampler.extras(args.from_seed, psi)
        extras |= {"to_seed": args.to_seed, "weight": step / (args.steps - 1), "space": args.space}
        meshes.append(with_extras(mesh, extras))
        names.append(f"step{step:02d}.glb")
        save_mesh(meshes[-1], args.out / names[-1])
    pictures = mesh_pictures(meshes, args.view_resolution)
    save_image(np.concatenate(pictures, axis=1), args.out / STRIP_FILE)
    save_animation(pictures, args.out / ANIMATION_FILE)
    left = common.left_over(args.out, "step*.glb", names)
    print(f"{args.steps} meshes, {STRIP_FILE} and {ANIMATION_FILE} in {args.out}{left}")


main = command_main("get3d interpolate", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
