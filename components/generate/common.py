"""What the commands that sample a checkpoint share: options, the sampler, meshes of styles."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from get3d_model.inference import Sampler, Styles
    from get3d_model.types import TexturedMesh

BATCH = 8


def add_arguments(parser: argparse.ArgumentParser, pictures: str) -> None:
    """The options of all commands that write meshes and pictures of them. pictures: what --out holds beside meshes."""
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file, checkpoint or training folder"
    )
    parser.add_argument("--out", type=Path, required=True, help=f"folder for the meshes and {pictures}")
    parser.add_argument(
        "--truncation-psi", type=float, default=0.7, help="0: the average shape, 1: no truncation"
    )
    add_model_arguments(parser)
    parser.add_argument("--texture-resolution", type=int, default=512, help="texels along each side")
    parser.add_argument("--view-resolution", type=int, default=256, help="pixels of one render")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="CLASS",
        help="name or number of the class, for a class-conditional model; drawn by the seed unless given",
    )
    parser.add_argument(
        "--w-avg-samples",
        type=int,
        default=0,
        help="compute the average shape, where truncation goes, from this many samples; 0: the checkpoint's own",
    )


def configured(sampler: Sampler, args: argparse.Namespace) -> Sampler:
    """The sampler as `add_model_arguments` asks for it. Raises InputError."""
    from get3d_model.errors import InputError

    if args.w_avg_samples < 0:
        raise InputError(f"--w-avg-samples {args.w_avg_samples} must not be negative")
    if args.w_avg_samples:
        sampler.recompute_averages(args.w_avg_samples)
    return sampler if args.class_name is None else sampler.with_class(args.class_name)


def load_sampler(args: argparse.Namespace) -> Sampler:
    """Checks the options and loads the checkpoint. Raises InputError."""
    from get3d_model.errors import InputError
    from get3d_model.inference import Sampler
    from get3d_model.limits import check_texture_resolution

    check_texture_resolution(args.texture_resolution)
    if not 16 <= args.view_resolution <= 4096:
        raise InputError(f"--view-resolution {args.view_resolution} must be 16 to 4096")
    return configured(Sampler.load(args.checkpoint), args)


def textured_meshes(sampler: Sampler, styles: Styles, texture_resolution: int) -> Iterator[TexturedMesh]:
    """Meshes of styles, in batches; a progress bar at a terminal."""
    import sys

    from tqdm import tqdm

    with tqdm(total=len(styles), desc="meshes", unit="mesh", disable=not sys.stderr.isatty()) as bar:
        for first in range(0, len(styles), BATCH):
            shapes = sampler.shapes(styles[first : first + BATCH])
            for index in range(len(shapes.meshes)):
                yield sampler.textured_mesh(shapes, index, texture_resolution)
                bar.update()


def left_over(folder: Path, pattern: str, written: Collection[str]) -> str:
    """The end of a sentence that names files of an earlier, longer run in the folder; they are left alone."""
    others = sorted(path.name for path in folder.glob(pattern) if path.name not in written)
    if not others:
        return ""
    names = others[0] if len(others) == 1 else f"{others[0]} to {others[-1]}"
    return f" ({names}: of an earlier run)"
