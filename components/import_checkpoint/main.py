"""`get3d import-checkpoint`: a checkpoint of the published GET3D implementation becomes one of ours, in one file.

Nothing in the file is executed. The model's settings are read off the shapes of its tensors; what these cannot tell
comes from a preset and the options.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from get3d_model.entry_point import command_main

if TYPE_CHECKING:
    from get3d_model.bundle import Parts
    from get3d_model.config import Config
    from get3d_model.isosurface.grid import TetrahedralGrid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("upstream", type=Path, metavar="UPSTREAM.pt", help="file with 'G', 'G_ema' and 'D'")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument(
        "--params", type=Path, help="params file to write for training on; none: beside --out, with .yaml"
    )
    parser.add_argument(
        "--preset",
        default="car_1024",
        help="category preset or params file for all that the weights do not tell",
    )
    parser.add_argument("--name", help="name of the model; none: the preset's")
    parser.add_argument(
        "--tet-grid",
        type=Path,
        help=".npz with the grid the model was trained on: vertices (N, 3), tets (T, 4)",
    )
    parser.add_argument(
        "--tet-res", type=int, help="resolution of the grid; none: the preset's (published: 90)"
    )
    parser.add_argument(
        "--grid-scale",
        type=float,
        help="side of the grid; none: the preset's (published: 0.8 for chairs, else 1)",
    )
    parser.add_argument("--deformation-multiplier", type=float, help="none: the preset's")
    parser.add_argument("--r1-gamma", type=float, help="R1 weight for training on; none: the preset's")
    parser.add_argument("--kimg", type=float, default=0.0, help="how long it was trained; kept as a note")
    parser.add_argument("--half", action="store_true", help="store the weights as fp16, half the size")


def run(args: argparse.Namespace) -> None:
    import yaml

    from get3d_model.bundle import EMA, save_bundle
    from get3d_model.config import config_to_dict
    from get3d_model.errors import InputError
    from get3d_model.files import sha256_file, write_bytes_atomic
    from get3d_model.isosurface.grid_file import read_grid
    from get3d_model.published_file import read_published_file

    if args.out.is_dir():
        raise InputError(f"{args.out}: is a folder; --out names the file to write")
    params = args.params or args.out.with_suffix(".yaml")
    sources = [file.resolve() for file in (args.upstream, args.tet_grid) if file]
    for option, file, taken in (
        ("--out", args.out, sources),
        ("--params", params, [*sources, args.out.resolve()]),
    ):
        if file.resolve() in taken:
            raise InputError(
                f"{option} {file} would overwrite a file of this import; name another with {option}"
            )
    if not 0 <= args.kimg < math.inf:
        raise InputError(f"--kimg must be 0 or more, not {args.kimg:g}")
    parts = read_published_file(args.upstream)
    config = imported_config(args, parts)
    content = yaml.safe_dump(config_to_dict(config), sort_keys=False).encode()
    if params.exists() and params.read_bytes() != content:
        raise InputError(f"{params}: exists with other content; remove it, or name another with --params")

    warnings: list[str] = []
    grid = None
    on_tetrahedra = config.model.isosurface == "dmtet"
    if args.tet_grid and not on_tetrahedra:
        raise InputError(
            f"{args.upstream}: is a FlexiCubes model, which has no tetrahedra; leave out --tet-grid"
        )
    if args.tet_grid:
        found = read_grid(args.tet_grid, config.model.tet_res, config.model.grid_scale)
        grid = found.grid
        warnings += [f"{args.tet_grid}: {change}" for change in found.changes]
        warnings += layers_warning(found.grid)
    elif on_tetrahedra:
        warnings.append(
            "no --tet-grid: shapes are extracted on our own grid of the same resolution, so they will differ slightly "
            "from those of the published implementation"
        )
    weights, more = fitted_parts(parts, config, grid, args.upstream)
    warnings += more
    description = {
        "config": config_to_dict(config),
        "kimg": args.kimg,
        "imported": {"sha256": sha256_file(args.upstream), "grid": "file" if grid is not None else "own"},
    }
    save_bundle(weights, args.out, description, args.half)
    write_bytes_atomic(params, content)
    for warning in warnings:
        print(f"get3d import-checkpoint: warning: {warning}", file=sys.stderr)
    model = config.model
    print(
        f"{args.out}: {', '.join(weights)}; {model.generator} generator, {model.isosurface}, "
        f"z {model.z_dim}, w {model.w_dim}, tri-planes {model.tri_plane_resolution}, "
        f"grid {model.tet_res} of side {model.grid_scale:g}, images {model.image_resolution}"
    )
    print(f"sample it with: get3d generate --checkpoint {args.out} --out DIR")
    if weights.keys() > {EMA}:
        print(f"train on with: get3d train --config {params} --init-from {args.out} --data DIR --out DIR")


def imported_config(args: argparse.Namespace, parts: Parts) -> Config:
    """The preset with what the shapes tell and the options set. Raises InputError."""
    from dataclasses import replace

    from get3d_model.bundle import DISCRIMINATOR, EMA
    from get3d_model.config import CONFIG_DIR, load_config
    from get3d_model.published_model import discriminator_settings, generator_settings

    preset_file = CONFIG_DIR / f"{args.preset}.yaml"
    preset = load_config(preset_file if preset_file.is_file() else Path(args.preset))
    # What the published model does not have stays off, whatever the preset says.
    found: dict[str, Any] = {
        "num_classes": 0,
        "initial_shape": None,
        "mirror_symmetry": False,
        "antialias_color": False,
    }
    for part, settings in ((EMA, generator_settings), (DISCRIMINATOR, discriminator_settings)):
        if part in parts:
            shapes = {name: tuple(tensor.shape) for name, tensor in parts[part].items()}
            found |= settings(shapes, f"{args.upstream}: {part}")
    for option in ("tet_res", "grid_scale", "deformation_multiplier"):
        if (value := getattr(args, option)) is not None:
            found[option] = value
    model = replace(preset.model, **found)
    gamma = preset.training.r1_gamma if args.r1_gamma is None else args.r1_gamma
    return replace(
        preset,
        name=args.name or preset.name,
        render=replace(preset.render, resolution=model.image_resolution),
        model=model,
        # No ramp-up: the moving average is not to forget the weights it starts from.
        training=replace(preset.training, r1_gamma=gamma, ema_rampup=None),
    )


def fitted_parts(
    parts: Parts, config: Config, grid: TetrahedralGrid | None, source: Path
) -> tuple[Parts, list[str]]:
    """(state dictionaries that fit our modules exactly, warnings). Raises InputError."""
    from get3d_model.bundle import DISCRIMINATOR, EMA, GENERATOR, GRID_PREFIX
    from get3d_model.generator import build_generator
    from get3d_model.networks.discriminator import Discriminator
    from get3d_model.published_model import from_published
    from get3d_model.weights import load_module

    model = config.model
    generator = build_generator(model, grid)
    discriminator = Discriminator(
        model.image_resolution, model.discriminator_channel_base, model.discriminator_channel_max
    )
    stored = {name: t for name, t in generator.state_dict().items() if name.startswith(GRID_PREFIX)}
    fitted: Parts = {}
    warnings: list[str] = []
    for part, module in ((EMA, generator), (GENERATOR, generator), (DISCRIMINATOR, discriminator)):
        if part not in parts:
            warnings.append(
                f"{source} has no {part}"
                + (": training cannot start from it" if part == DISCRIMINATOR else "")
            )
            continue
        state, left_out = from_published(parts[part], module.state_dict())
        if left_out:
            warnings.append(
                f"{part}: {len(left_out)} tensors have no place in the model and are left out ({', '.join(left_out[:3])})"
            )
        if module is generator:
            state |= stored
        load_module(module, state, Path(f"{source}: {part}"))
        fitted[part] = state
    return fitted, warnings


def layers_warning(grid: TetrahedralGrid) -> list[str]:
    """A warning where the layers of a regular grid are not those of --tet-res, which bounds the deformation."""
    import numpy as np

    counts = {len(np.unique(axis.round(5))) - 1 for axis in grid.vertices_N3.numpy().astype(np.float64).T}
    layers = counts.pop()
    regular = not counts and layers + 1 < len(grid.vertices_N3) ** 0.5
    if not regular or layers == grid.resolution:
        return []
    return [
        f"the grid has {layers} layers along its sides and --tet-res is {grid.resolution}, which bounds how far its "
        "vertices move; give the resolution the model was trained with"
    ]


main = command_main("get3d import-checkpoint", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
