"""`get3d export-checkpoint`: a checkpoint as a file of the published implementation, or as one safetensors file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from get3d_model.entry_point import command_main

BUNDLE_SUFFIX = ".safetensors"
GRID_SUFFIX = ".grid.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file, checkpoint or training folder"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"file to write: in the published format, or where it ends with {BUNDLE_SUFFIX} as one weight file "
        "of ours, for keeping and for get3d train --init-from",
    )
    parser.add_argument(
        "--without-generator",
        action="store_true",
        help=f"leave out G, the generator behind the average; training goes on from G_ema ({BUNDLE_SUFFIX} only)",
    )
    parser.add_argument("--half", action="store_true", help=f"weights as fp16 ({BUNDLE_SUFFIX} only)")


def run(args: argparse.Namespace) -> None:
    import torch

    from get3d_model.bundle import EMA, GENERATOR, GENERATOR_FILE, PART_FILES, PARTS, load_parts, save_bundle
    from get3d_model.config import config_from_dict
    from get3d_model.errors import InputError
    from get3d_model.generator import build_generator, stored_grid
    from get3d_model.inference import find_checkpoint
    from get3d_model.isosurface.grid_file import write_grid
    from get3d_model.published_file import write_published_file
    from get3d_model.published_model import to_published
    from get3d_model.weights import load_module

    if args.out.is_dir():
        raise InputError(f"{args.out}: is a folder; --out names the file to write")
    file = find_checkpoint(args.checkpoint)
    read = [file, *(file.with_name(name) for name in PART_FILES.values() if file.name == GENERATOR_FILE)]
    if args.out.resolve() in [one.resolve() for one in read]:
        raise InputError(
            f"--out {args.out} would overwrite the checkpoint that is exported; name another file"
        )
    parts, description = load_parts(file)
    if EMA not in parts or not {"config", "kimg"} <= description.keys():
        raise InputError(f"{file}: holds no generator; give a checkpoint")
    for part, state in parts.items():
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise InputError(f"{file}: {part} {name} is not finite; export an earlier checkpoint")
    config = config_from_dict(description["config"], f"{file} header")
    generator = build_generator(config.model, stored_grid(parts[EMA], config.model, file))
    load_module(generator, parts[EMA], file)
    missing = [part for part in PARTS if part not in parts]
    if missing:
        print(f"get3d export-checkpoint: warning: {file} has no {' and no '.join(missing)}", file=sys.stderr)
    if args.out.suffix == BUNDLE_SUFFIX:
        if args.without_generator:
            parts = {part: state for part, state in parts.items() if part != GENERATOR}
        save_bundle(parts, args.out, description, args.half)
        print(f"{args.out}: {', '.join(parts)}, {args.out.stat().st_size / 1e6:.1f} MB")
        return
    if args.half or args.without_generator:
        option = "--half" if args.half else "--without-generator"
        raise InputError(
            f"{option} needs an --out that ends with {BUNDLE_SUFFIX}; the published format is fp32 and has all parts"
        )
    unknown = [
        name
        for name, default in (("initial_shape", None), ("mirror_symmetry", False), ("num_classes", 0))
        if getattr(config.model, name) != default
    ]
    if unknown:
        raise InputError(
            f"{file}: was trained with model.{' and model.'.join(unknown)}, which the published model does not have: "
            f"its shapes would come out wrong; write a {BUNDLE_SUFFIX} file instead"
        )
    write_published_file({part: to_published(state) for part, state in parts.items()}, args.out)
    print(f"{args.out}: {', '.join(parts)} in the published format")
    grid = generator.synthesis.extractor.grid
    if hasattr(grid, "tets_T4"):
        grid_file = args.out.with_suffix(GRID_SUFFIX)
        write_grid(grid, grid_file)
        print(f"{grid_file}: the grid it was trained on, resolution {grid.resolution}")
        print(
            f"back again with: get3d import-checkpoint {args.out} --tet-grid {grid_file} --tet-res {grid.resolution} "
            f"--grid-scale {config.model.grid_scale:g} --out FILE"
        )


main = command_main("get3d export-checkpoint", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
