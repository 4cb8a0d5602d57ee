"""`get3d swap`: every geometry with every texture: a mesh each, and a grid of renders, a row per geometry."""

from __future__ import annotations

import argparse
import sys

from components.generate import common
from get3d_model.entry_point import command_main

GRID_FILE = "grid.png"
MAX_SHAPES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, GRID_FILE)
    parser.add_argument("--geometry-seeds", default="0-3", help="a row each: 0-3 or 1,5,9-12")
    parser.add_argument("--texture-seeds", default="4-7", help="a column each")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from components.generate.seeds import parse_seeds
    from components.generate.strip import mesh_pictures
    from get3d_model import walks
    from get3d_model.errors import InputError
    from get3d_model.image_grid import save_image, tile
    from get3d_model.inference import with_extras
    from get3d_model.mesh_io import save_mesh

    rows = parse_seeds(args.geometry_seeds, "--geometry-seeds")
    columns = parse_seeds(args.texture_seeds, "--texture-seeds")
    if len(rows) * len(columns) > MAX_SHAPES:
        raise InputError(f"{len(rows)} x {len(columns)} shapes are more than {MAX_SHAPES}; give fewer seeds")
    sampler = common.load_sampler(args)
    psi = args.truncation_psi
    styles = walks.swap(sampler, rows, columns, psi)
    meshes = []
    for index, mesh in enumerate(common.textured_meshes(sampler, styles, args.texture_resolution)):
        geometry, texture = rows[index // len(columns)], columns[index % len(columns)]
        meshes.append(with_extras(mesh, {**sampler.extras(geometry, psi), "texture_seed": texture}))
        save_mesh(meshes[-1], args.out / f"geometry{geometry:04d}_texture{texture:04d}.glb")
    pictures = np.stack(mesh_pictures(meshes, args.view_resolution))
    save_image(tile(pictures, len(columns)), args.out / GRID_FILE)
    print(f"{len(meshes)} meshes and {GRID_FILE} in {args.out}")


main = command_main("get3d swap", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
