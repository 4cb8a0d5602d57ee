"""`get3d train`: trains on a rendered data set; resumes by itself when the output folder holds a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("params.yaml"), help="params file")
    parser.add_argument(
        "--data",
        required=True,
        help="rendered data set: a folder, shards or published layout, or the address of shards such as s3://bucket/folder",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for checkpoints, image grids, metrics.jsonl, tensorboard/",
    )
    parser.add_argument(
        "--restart-on-change",
        action="store_true",
        help="start afresh when the checkpoint in --out belongs to another configuration or data set "
        "instead of refusing",
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        help="start from the weights of this checkpoint (fine-tuning, imported or pretrained models) instead of "
        "training.init_from; a checkpoint in --out goes first",
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        help="local disk that shards of --data are copied to while training has begun; without it only those of an "
        "address are, to the folder for temporary files",
    )
    parser.add_argument(
        "--cache-gb",
        type=float,
        default=50.0,
        help="at most so much of that disk, for all processes of a machine",
    )
    parser.add_argument(
        "--metrics-textfile", type=Path, help="also write the current metrics here as a Prometheus .prom file"
    )


def run(args: argparse.Namespace) -> None:
    from get3d_model.config import load_config
    from get3d_model.training.distributed import world_from_environment
    from get3d_model.training.sink import JsonLinesSink, MetricSink
    from get3d_model.training.trainer import Trainer
    from monitoring.tensorboard_sink import TensorBoardSink

    config = load_config(args.config)
    world = world_from_environment(config.training.rank_timeout_s)
    try:
        start = args.init_from or config.training.init_from
        trainer = Trainer(config, Path(args.data), args.out, world, None if start is None else Path(start))
        if world.is_main:
            print(trainer.summary.describe(), flush=True)
        resumed = trainer.resume(args.restart_on_change)
        if world.is_main and resumed:
            print(f"resuming from {resumed} at kimg {trainer.images_seen / 1000:.2f}", flush=True)
        sinks: list[MetricSink] = []
        if world.is_main:
            sinks.append(JsonLinesSink(args.out / "metrics.jsonl", trainer.step))
            try:
                sinks.append(TensorBoardSink(args.out / "tensorboard", trainer.step))
            except ImportError as error:
                print(f"no TensorBoard files: {error}", flush=True)
            if args.metrics_textfile:
                from monitoring.sinks import TextfileSink

                sinks.append(TextfileSink(args.metrics_textfile, config.name))
        checkpoint = trainer.run(sinks)
        if world.is_main:
            print(f"finished: {checkpoint}", flush=True)
    finally:
        world.close()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
