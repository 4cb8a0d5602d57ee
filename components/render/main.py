"""`get3d render`: the command line of the render step."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.data_pointer import DataPointer, local_folder, parse_location
from get3d_model.entry_point import command_main

if TYPE_CHECKING:
    from components.render.job import RenderReport
    from components.render.settings import RenderOptions
    from get3d_model.camera_settings import CameraConfig

MESH_TIMEOUT_S = {"raster": 300.0, "blender": 3600.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Renders every .glb, .gltf, .obj and .ply of a folder from random directions into a training"
        " data set. A stopped run continues where it was; unchanged shapes are never rendered twice."
    )
    add = parser.add_argument
    add(
        "meshes",
        type=_location,
        metavar="MESHES",
        help="folder, searched recursively for meshes, a .zip of one, the address of either in an object store"
        " (s3://...), or a data pointer (dvc://REPO@REV:PATH)",
    )
    add(
        "out",
        type=_location,
        metavar="OUT",
        help="folder of the data set, or an address that it is copied to when it is finished",
    )
    add("--views", type=int, default=24, help="images per shape (default: %(default)s)")
    add("--resolution", type=int, default=1024, help="image size in pixels (default: %(default)s)")
    add("--supersample", type=int, default=4, help="samples per pixel along each side (default: %(default)s)")
    add(
        "--scale",
        type=float,
        default=0.8,
        help="longest side of every mesh, world units (default: %(default)s)",
    )
    add(
        "--backend",
        choices=("raster", "blender"),
        default="raster",
        help="our own renderer, or Blender with the recipe of the published data sets (default: %(default)s)",
    )
    add(
        "--engine",
        choices=("cycles", "eevee"),
        default="cycles",
        help="of Blender: path tracing on the processor, or the quick one, which needs a GPU (default: %(default)s)",
    )
    add("--samples", type=int, default=32, help="of Blender, per pixel (default: %(default)s)")
    add(
        "--blender",
        metavar="PATH",
        help="the program, or a Python that has the package bpy; found by BLENDER_PYTHON, BLENDER, an installed bpy or"
        " the PATH unless given",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="of the raster backend: auto takes CUDA where nvdiffrast is installed (default: %(default)s)",
    )
    add(
        "--light",
        default="studio",
        metavar="NAME|FILE",
        help="of the raster backend: studio (sky, key and fill light), area (one large light above, as the published"
        " recipe), flat (base colours as they are), overcast, sunny, sunset, or an equirect picture (.hdr, .png, .jpg)"
        " of the surroundings (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of the cameras and of a split by hash (default: %(default)s)")
    add(
        "--cameras",
        default="car",
        metavar="PRESET|FILE",
        help="car, chair, motorbike, house, animal or person, or a params file whose `cameras` section says where"
        " they stand (default: %(default)s)",
    )
    add(
        "--up", default="y", metavar="AXIS", help="of the mesh files: x, y, z, -x, ... (default: %(default)s)"
    )
    add("--front", metavar="AXIS", help="of the mesh files, as in --front=-y (default: z; -y where z is up)")
    add(
        "--scales", type=Path, metavar="FILE", help=".json or .csv: longest side by class, instead of --scale"
    )
    add("--labels", type=Path, metavar="FILE", help=".json or .csv: class by shape; else folders are classes")
    add(
        "--captions", type=Path, metavar="FILE", help=".json or .csv: text by shape, stored beside its images"
    )
    add(
        "--groups",
        type=Path,
        metavar="FILE",
        help=".json or .csv: group by shape; a split by hash keeps groups, and shapes of equal vertices, together",
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
    add("--shapes-per-shard", type=int, help="shapes in one tar; about half a GiB of them unless given")
    add(
        "--shard",
        default="0/1",
        metavar="I/N",
        help="render part I of N, counted from 0; N jobs write into the same OUT, then `get3d data merge OUT`"
        " (default: %(default)s, everything)",
    )
    add(
        "--max-triangles",
        type=int,
        default=5_000_000,
        help="a mesh with more is set aside (default: %(default)s)",
    )
    add(
        "--max-memory",
        type=float,
        metavar="GB",
        help="of one worker; a mesh that takes more is set aside (its share of the free memory unless given)",
    )
    add(
        "--mesh-timeout",
        type=float,
        help="seconds for all views of one mesh; 300 unless given, 3600 with Blender",
    )
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


def _location(text: str) -> Path | DataPointer | str:
    """A folder, a data pointer, or the address of something in an object store."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "it is empty; give a folder"
        )  # such as "$MESHES" of a variable that is not set
    return text if "://" in text and not text.startswith("dvc://") else parse_location(text)


def run(args: argparse.Namespace) -> None:
    """Does what the arguments say. Raises InputError for bad input."""
    # Here and not above, because worker processes import this module before they set their environment.
    from components.artifacts import monitoring_steps
    from components.render.axes import Axes
    from components.render.job import render_dataset
    from components.render.progress import log
    from components.render.remote import fetch_meshes, is_url, local_copy
    from components.render.settings import PixelSettings, RenderOptions
    from components.render.tables import read_scales
    from components.render.worker import CUDA_RENDERER_VERSION, make_cuda_renderer
    from get3d_model.data.parts import Shard
    from get3d_model.data.remote import push_dataset
    from get3d_model.errors import InputError
    from get3d_model.rendering.environment import light_source

    pixels = PixelSettings(
        args.views,
        args.resolution,
        args.supersample,
        args.scale,
        args.seed,
        light_source(args.light),
        cameras=_cameras(args.cameras).orbit,
        axes=Axes(args.up, args.front),
    )
    shard = Shard.parse(args.shard)
    if not isinstance(args.out, (str, Path)):
        raise InputError("OUT is a data pointer; give a folder, or the address of one in an object store")
    options = RenderOptions(
        fetch_meshes(args.meshes, shard) if is_url(args.meshes) else local_folder(args.meshes),
        local_copy(args.out, "rendered") if is_url(args.out) else args.out,
        pixels,
        workers=args.workers,
        splits=args.splits,
        val_fraction=args.val_fraction,
        shapes_per_shard=args.shapes_per_shard,
        mesh_timeout_s=MESH_TIMEOUT_S[args.backend] if args.mesh_timeout is None else args.mesh_timeout,
        layout=args.layout,
        category=args.category,
        overwrite=args.overwrite,
        retry_rejected=args.retry_rejected,
        shard=shard,
        max_triangles=args.max_triangles,
        max_memory=_memory_bytes(args.max_memory),
        scales=read_scales(args.scales) if args.scales else {},
        tables={
            kind: path
            for kind, path in (("caption", args.captions), ("label", args.labels), ("group", args.groups))
            if path is not None
        },
    )
    if args.backend == "blender":
        report = _render_with_blender(options, args)
    elif _use_cuda(args.device):
        factory = functools.partial(make_cuda_renderer, options.worker_count)
        report = render_dataset(options, factory, CUDA_RENDERER_VERSION)
    else:
        report = render_dataset(options)
    if not report.up_to_date:
        log(
            f"{report.out}: {report.images} images of {report.shapes} shapes"
            f" ({report.rendered} rendered, {report.reused} kept, {len(report.rejected)} set aside)"
            f" in {report.seconds:.0f} s"
        )
    monitoring_steps().report_rows("render", report.shapes, len(report.rejected))
    if is_url(args.out):
        url = args.out.rstrip("/") + ("" if shard.whole else f"/{shard.folder}")
        log(f"{url}: {push_dataset(report.out, url)} files transferred")


def _memory_bytes(gigabytes: float | None) -> int | None:
    """Raises InputError for what is no amount of memory."""
    from get3d_model.errors import InputError

    if gigabytes is not None and not 0.0 < gigabytes < 1e9:
        raise InputError(f"--max-memory must be a number of GB above 0, not {gigabytes:g}")
    return None if gigabytes is None else int(gigabytes * 1e9)


def _use_cuda(device: str) -> bool:
    """Raises InputError when CUDA is asked for and cannot be used."""
    from components.render.progress import log
    from get3d_model.errors import InputError
    from get3d_model.rendering.nvdiffrast_backend import missing_requirement

    problem = None if device == "cpu" else missing_requirement()
    if device == "cuda" and problem:
        raise InputError(f"--device cuda: {problem}; or use --device cpu")
    use = device != "cpu" and problem is None
    log(f"rendering on {'CUDA, by nvdiffrast' if use else 'the processor'}")
    return use


def _render_with_blender(options: RenderOptions, args: argparse.Namespace) -> RenderReport:
    """As `render_dataset`. Raises InputError when Blender is missing or cannot draw here."""
    from components.render.blender import client
    from components.render.blender.install import find_blender
    from components.render.blender.settings import BlenderSettings
    from components.render.job import render_dataset
    from components.render.progress import log

    install = find_blender(args.blender)
    settings = BlenderSettings(install.version, args.engine, args.samples)
    log(f"Blender {install.version} ({install.where}), {settings.engine}, {settings.samples} samples")
    if settings.engine == "eevee" and (slow := client.check_eevee(install, settings)):
        log(f"warning: {slow}")
    # Here, because workers are killed when a run ends, and could not clean up.
    with tempfile.TemporaryDirectory(prefix="get3d-blender-") as scratch:
        factory = client.blender_renderer_factory(install, Path(scratch), options.mesh_timeout_s)
        options = replace(options, pixels=replace(options.pixels, blender=settings))
        return render_dataset(options, factory, client.BLENDER_RENDERER_VERSION)


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


main = command_main("get3d render", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
