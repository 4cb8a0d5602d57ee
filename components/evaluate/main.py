"""`get3d evaluate`: measures a checkpoint against held-out meshes and pictures, and decides about promotion."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from components.data_pointer import local_folder, parse_location
from get3d_model.entry_point import command_main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file, checkpoint or training folder"
    )
    parser.add_argument(
        "--data",
        type=parse_location,
        required=True,
        help="rendered data set, or a data pointer; its manifest names the splits",
    )
    parser.add_argument(
        "--meshes",
        type=parse_location,
        required=True,
        help="the folder (or .zip, or data pointer) the data set was rendered from",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for metrics.json, gate.json, report.html and more"
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="params file whose evaluation section is used (default: the checkpoint's own)",
    )
    parser.add_argument(
        "--production",
        type=Path,
        metavar="METRICS.json",
        help="metrics of the model in production, for thresholds relative to it",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE|URL",
        help="Inception-v3 weights of 2015-12-05 (TorchScript) for FID and KID; a URL is downloaded into the cache once "
        "(default: evaluation.inception, then the cache)",
    )
    parser.add_argument(
        "--weights-sha256",
        help="what the file given by --weights must have (default: that of the published file); the numbers of another "
        "network are other_network_fid_ori ...",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto: cuda where there is a rasteriser for it"
    )


def run(args: argparse.Namespace) -> None:
    """Raises InputError for bad input, before anything is written."""
    from components.evaluate.evaluation import evaluate, lines, write
    from components.evaluate.gate import check_thresholds, decide, read_production
    from components.evaluate.page import Titles
    from components.render.archive import mesh_folder
    from get3d_model.config import load_config
    from get3d_model.data.manifest import read_manifest
    from get3d_model.files import check_output_folder
    from get3d_model.inference import Sampler
    from get3d_model.metrics.inception import cache_dir

    check_output_folder(args.out)
    settings = load_config(args.config).evaluation if args.config else None
    production = read_production(args.production) if args.production else None
    data = local_folder(args.data)
    manifest = read_manifest(data)
    sampler = Sampler.load(args.checkpoint, _device(args.device))
    settings = settings or sampler.config.evaluation
    if args.weights:
        settings = replace(settings, inception=args.weights)
    check_thresholds(settings.thresholds)
    with mesh_folder(local_folder(args.meshes)) as meshes:
        found = evaluate(sampler, data, manifest, meshes, settings, cache_dir(), args.weights_sha256)
    verdict = decide(found.section, settings.thresholds, production)
    identity = sampler.identity
    titles = Titles(identity.name, identity.kimg, identity.sha256, settings.confidence)
    write(found, verdict, titles, args.out)
    print("\n".join(lines(found.section)))
    print("\n".join([f"{verdict.decision}:", *(f"  {reason}" for reason in verdict.reasons)]))
    print(f"open {args.out / 'report.html'}")


def _device(text: str) -> str:
    """Raises InputError for what is no device."""
    import torch

    from get3d_model.errors import InputError
    from get3d_model.rendering.select import rasterizer_backends

    if text == "auto":
        return "cuda" if any(b.available for b in rasterizer_backends() if b.name != "cpu") else "cpu"
    try:
        return str(torch.device(text))
    except RuntimeError:
        raise InputError(f"--device {text}: there is no such device; give auto, cpu or cuda") from None


main = command_main("get3d evaluate", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
