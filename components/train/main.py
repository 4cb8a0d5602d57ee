"""`get3d train`: trains on a rendered data set; resumes by itself when the output folder holds a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.data_pointer import DataPointer, parse_location
from components.train.endpoint import endpoint
from components.train.output_lock import only_training
from components.train.torchrun import STARTED_BY_TORCHRUN, end_with_torchrun
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import clear_disk_errors

if TYPE_CHECKING:
    from get3d_model.data.base import SampleSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("params.yaml"), help="params file")
    parser.add_argument(
        "--data",
        required=True,
        help="rendered data set: a folder, shards or published layout, the address of shards such as s3://bucket/folder, "
        "a data pointer (.json, or dvc://REPO@REV:PATH), or a mixture of data sets (.yaml, docs/data.md)",
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
        help="local disk that shards of --data are copied to while training goes on; without it only those of an "
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
    parser.add_argument(
        "--metrics-port",
        type=int,
        help="serve the current metrics to Prometheus on this port; 0: any free one; unless given, "
        "GET3D_METRICS_PORT in the environment",
    )
    parser.add_argument(
        "--metrics-host",
        help="address of that port; 0.0.0.0 for all; unless given, GET3D_METRICS_HOST in the environment, or 127.0.0.1",
    )


def run(
    args: argparse.Namespace,
    owned: Callable[[Path], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """owned: the output folder is this training's inside it; entered once the settings and the data are known to be
    sound, so that a mistake in them leaves nothing behind."""
    from components.train.curves import write_curves
    from get3d_model.config import load_config
    from get3d_model.training.distributed import world_from_environment
    from get3d_model.training.sink import JsonLinesSink, MetricSink
    from get3d_model.training.trainer import Trainer
    from monitoring.logs import structured
    from monitoring.tensorboard_sink import TensorBoardSink

    if STARTED_BY_TORCHRUN in os.environ:
        end_with_torchrun()
    if not args.cache_gb >= 0:
        raise InputError(f"--cache-gb must be 0 or more, not {args.cache_gb:g}")
    port, host = endpoint(args.metrics_port, args.metrics_host)
    config = load_config(args.config)
    world = world_from_environment(config.training.rank_timeout_s)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(structured("train"))
        stack.callback(world.close)
        start = args.init_from or config.training.init_from
        data = stack.enter_context(_opened(args))
        stack.enter_context(owned(args.out))
        trainer = Trainer(config, data, args.out, world, None if start is None else Path(start))
        log.step = lambda: trainer.step
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
            if args.metrics_textfile or port is not None:
                from components.train.monitor import facts, monitored

                told = facts(config, args.out, world.size, trainer.step)
                sinks += stack.enter_context(monitored(told, port, host, args.metrics_textfile))
        checkpoint = trainer.run(sinks)
        if world.is_main:
            write_curves(args.out)
            print(f"finished: {checkpoint}", flush=True)


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Path | SampleSource]:
    """The data set to train on: a folder, or one that is read where it is and copied to local disk meanwhile."""
    from get3d_model.data.staged_source import StagedSource

    location = parse_location(args.data)
    if isinstance(location, DataPointer):
        from components.pointer_filesystem import address, register

        register()
        args.data = address(location)
    remote = "://" in args.data
    if not remote and (args.cache_dir is None or not _in_shards(Path(args.data))):
        yield Path(args.data)
        return
    cache = args.cache_dir or Path(tempfile.gettempdir()) / f"get3d-cache-{os.getuid()}"
    # Those of torchrun; without it this is the only process.
    share = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with clear_disk_errors(cache, "make space or access, or give another --cache-dir"):
        source = StagedSource(
            args.data, cache, round(args.cache_gb * 1e9), share, lambda line: print(line, flush=True)
        )
    with contextlib.closing(source):
        yield source


def _in_shards(folder: Path) -> bool:
    from get3d_model.data.manifest import MANIFEST_NAME, read_manifest

    return (folder / MANIFEST_NAME).is_file() and bool(read_manifest(folder).shards)


def run_alone(args: argparse.Namespace) -> None:
    """`run`, for a training that no launcher looks after."""
    run(args, only_training)


main = command_main("get3d train", __doc__, add_arguments, run_alone)

if __name__ == "__main__":
    sys.exit(main())
