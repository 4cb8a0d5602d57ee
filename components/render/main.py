"""`get3d render`: the command line of the render step."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from get3d_model.camera_settings import CameraConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Renders every .glb, .gltf, .obj and .ply of a folder from random directions into a training"
        " data set. A stopped run continues where it was; unchanged shapes are never rendered twice."
    )
    add = parser.add_argument
    add("meshes", type=Path, metavar="MESHES", help="folder, searched recursively for meshes")
    add("out", type=Path, metavar="OUT", help="folder of the data set")
    add("--views", type=int, default=24, help="images per shape (default: %(default)s)")
    add("--resolution", type=int, default=1024, help="image size in pixels (default: %(default)s)")
    add("--supersample", type=int, default=4, help="samples per pixel along each side (default: %(default)s)")
    add(
        "--scale",
        type=float,
        default=0.8,
        help="longest side of every mesh, world units (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of the cameras and of a split by hash (default: %(default)s)")
    add(
        "--cameras",
        default="car",
        metavar="PRESET|FILE",
        help="car, chair, motorbike, house, animal or person, or a params file whose `cameras` section says where"
        " they stand (default: %(default)s)",
    )
    add("--workers", type=int, help="processes; one per processor unless given")
    add(
        "--splits",
        type=Path,
        metavar="DIR",
        help="folder with train.txt, val.txt, test.txt; looked for in MESHES and above it unless given",
    )
    add(
        "--val-fraction",
        type=float,
        default=0.1,
        help="share of the shapes held out when there are no split files (default: %(default)s)",
    )
    add("--shapes-per-shard", type=int, default=64, help="shapes in one tar (default: %(default)s)")
    add("--mesh-timeout", type=float, default=300.0, help="seconds for one mesh (default: %(default)s)")
    add(
        "--layout",
        choices=("shards", "published", "both"),
        default="shards",
        help="WebDataset shards, the published img/ and camera/ folders, or both (default: %(default)s)",
    )
    add("--category", default="shapes", help="folder name in the published layout (default: %(default)s)")
    add("--overwrite", action="store_true", help="render everything again")
    add(
        "--retry-rejected", action="store_true", help="try the meshes again that a finished run has set aside"
    )


def run(args: argparse.Namespace) -> None:
    """Does what the arguments say. Raises InputError for bad input."""
    # Here and not above, because worker processes import this module before they set their environment.
    from components.render.job import render_dataset
    from components.render.progress import log
    from components.render.settings import PixelSettings, RenderOptions

    pixels = PixelSettings(
        args.views,
        args.resolution,
        args.supersample,
        args.scale,
        args.seed,
        cameras=_cameras(args.cameras).orbit,
    )
    options = RenderOptions(
        args.meshes,
        args.out,
        pixels,
        workers=args.workers,
        splits=args.splits,
        val_fraction=args.val_fraction,
        shapes_per_shard=args.shapes_per_shard,
        mesh_timeout_s=args.mesh_timeout,
        layout=args.layout,
        category=args.category,
        overwrite=args.overwrite,
        retry_rejected=args.retry_rejected,
    )
    report = render_dataset(options)
    if not report.up_to_date:
        log(
            f"{report.out}: {report.images} images of {report.shapes} shapes"
            f" ({report.rendered} rendered, {report.reused} kept, {len(report.rejected)} set aside)"
            f" in {report.seconds:.0f} s"
        )


def _cameras(text: str) -> CameraConfig:
    """A preset's name, or a params file. Raises InputError."""
    from get3d_model.camera_settings import CAMERA_PRESETS, CameraConfig
    from get3d_model.config import load_config
    from get3d_model.errors import InputError

    if text in CAMERA_PRESETS:
        return CameraConfig(text)
    if not Path(text).is_file():
        raise InputError(
            f"--cameras {text!r} is neither one of {', '.join(CAMERA_PRESETS)} nor a params file"
        )
    return load_config(Path(text)).cameras


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
