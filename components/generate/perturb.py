"""`get3d perturb`: shapes around the one of a seed: a mesh each, and a strip of renders that begins with the seed's own."""

from __future__ import annotations

import argparse
import sys

from components.generate import common
from get3d_model.entry_point import command_main

STRIP_FILE = "strip.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, STRIP_FILE)
    parser.add_argument("--seed", type=int, default=0, help="seed of the shape in the middle")
    parser.add_argument("--count", type=int, default=6, help="shapes around it")
    parser.add_argument(
        "--sigma", type=float, default=0.1, help="how far away: 0 the shape itself, 1 as much noise as code"
    )
    parser.add_argument(
        "--part", choices=("geometry", "texture", "both"), default="both", help="which code is changed"
    )
    parser.add_argument(
        "--space",
        choices=("z", "w"),
        default="z",
        help="z: likely samples only; w: in the styles' own directions",
    )
    parser.add_argument("--noise-seed", type=int, default=0, help="another seed: other neighbours")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from components.generate.strip import mesh_pictures
    from get3d_model import walks
    from get3d_model.errors import InputError
    from get3d_model.image_grid import save_image
    from get3d_model.inference import with_extras
    from get3d_model.mesh_io import save_mesh

    if not 1 <= args.count <= 1000:
        raise InputError(f"--count {args.count} must be 1 to 1000")
    sampler = common.load_sampler(args)
    psi = args.truncation_psi
    styles = walks.perturb(
        sampler, args.seed, args.count, args.sigma, args.part, args.space, psi, noise_seed=args.noise_seed
    )
    meshes, names = [], []
    for index, mesh in enumerate(common.textured_meshes(sampler, styles, args.texture_resolution)):
        extras = sampler.extras(args.seed, psi)
        name = f"seed{args.seed:04d}.glb"
        if index:
            name = f"seed{args.seed:04d}_near{index:02d}.glb"
            extras |= {
                "sigma": args.sigma,
                "part": args.part,
                "space": args.space,
                "noise_seed": args.noise_seed,
                "neighbour": index,
            }
        meshes.append(with_extras(mesh, extras))
        names.append(name)
        save_mesh(meshes[-1], args.out / name)
    save_image(np.concatenate(mesh_pictures(meshes, args.view_resolution), axis=1), args.out / STRIP_FILE)
    left = common.left_over(args.out, f"seed{args.seed:04d}*.glb", names)
    print(f"seed {args.seed}, {args.count} neighbours and {STRIP_FILE} in {args.out}{left}")


main = command_main("get3d perturb", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
