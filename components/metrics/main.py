"""`get3d metrics`: how a folder of generated meshes stands to a folder of reference meshes, from any generator."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from get3d_model.entry_point import command_main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "generated", type=Path, metavar="GENERATED", help="folder (or .zip) of generated meshes"
    )
    parser.add_argument(
        "reference", type=Path, metavar="REFERENCE", help="folder (or .zip) of reference meshes"
    )
    parser.add_argument(
        "--distance", choices=("cd", "lfd", "both"), default="both", help="Chamfer, light field, or both"
    )
    parser.add_argument(
        "--points", type=int, default=2048, help="surface points per mesh (Chamfer distance, JSD)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of points, resamples and sampled faces")
    parser.add_argument(
        "--surface", choices=("all", "outer"), default="all",
        help="points on the whole surface, or only where it can be seen from outside",
    )  # fmt: skip
    parser.add_argument(
        "--normalize", choices=("box", "sphere", "none"), default="box",
        help="scale of every mesh: longest side 1, farthest vertex at 1, or as it is; centred unless none",
    )  # fmt: skip
    parser.add_argument("--minimum", type=int, default=2, help="fewer usable meshes in a folder are an error")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap intervals")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the bootstrap intervals")
    parser.add_argument("--no-quality", action="store_true", help="leave out the quality of the meshes")
    parser.add_argument(
        "--out", type=Path, help="folder for metrics.json and metrics_full.json (default: only print)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--cache", type=Path, help="folder for what is computed of a mesh (default: get3d's cache folder)"
    )
    parser.add_argument("--no-cache", action="store_true", help="keep and use nothing")


def run(args: argparse.Namespace) -> None:
    """Raises InputError for bad input, before anything is written to --out."""
    from components.metrics.compare import compare
    from components.metrics.feature_cache import FeatureCache
    from components.metrics.result import flat, full, table
    from components.metrics.settings import MetricsSettings
    from components.metrics.shapes import measure_folder
    from components.render.archive import mesh_folder
    from get3d_model.files import check_output_folder, clear_disk_errors, write_json_atomic
    from get3d_model.metrics.inception import cache_dir

    settings = MetricsSettings(
        distances=("cd", "lfd") if args.distance == "both" else (args.distance,),
        points=args.points, seed=args.seed, surface=args.surface, normalize=args.normalize, minimum=args.minimum,
        resamples=args.resamples, confidence=args.confidence, quality=not args.no_quality,
    )  # fmt: skip
    device = _device(args.device)
    if args.out is not None:
        check_output_folder(args.out)
    folder = None if args.no_cache else args.cache or cache_dir() / "shapes"
    cache = FeatureCache(folder, optional=args.cache is None)
    with mesh_folder(args.generated) as generated_dir, mesh_folder(args.reference) as reference_dir:
        reference = measure_folder(reference_dir, settings, cache, device, "reference", settings.quality)
        generated = measure_folder(generated_dir, settings, cache, device, "generated", settings.quality)
    found = compare(generated, reference, settings, device)
    if args.out is not None:
        with clear_disk_errors(args.out, "choose another --out"):
            write_json_atomic(
                args.out / "metrics_full.json", full(found, generated, reference, settings, device)
            )
            write_json_atomic(args.out / "metrics.json", flat(found, generated, reference, settings))
    print(table(found, generated, reference, settings))


def _device(name: str):
    import torch

    from get3d_model.errors import InputError

    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not possible; use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch sees no CUDA device; use --device cpu")
    return device


main = command_main("get3d metrics", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
