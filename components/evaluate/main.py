"""`get3d evaluate`: measures a checkpoint against the held-out meshes."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file, checkpoint or training folder"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="rendered data set; its manifest names the splits"
    )
    parser.add_argument(
        "--meshes", type=Path, required=True, help="the folder the data set was rendered from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument(
        "--config",
        type=Path,
        help="params file whose evaluation section is used (default: the checkpoint's own)",
    )


def run(args: argparse.Namespace) -> None:
    from components.evaluate.geometry import evaluate_geometry
    from get3d_model.config import load_config
    from get3d_model.data.manifest import read_manifest
    from get3d_model.files import write_json_atomic
    from get3d_model.inference import Sampler

    settings = load_config(args.config).evaluation if args.config else None
    manifest = read_manifest(args.data)
    sampler = Sampler.load(args.checkpoint)
    metrics = evaluate_geometry(sampler, manifest, args.meshes, settings or sampler.config.evaluation)
    write_json_atomic(args.out / "metrics.json", metrics)
    for name, value in metrics.items():
        print(f"{name:36s} {value:.5g}" if isinstance(value, float) else f"{name:36s} {value}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
