"""`get3d data`: merge, describe, check and convert data sets."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from get3d_model.entry_point import command_main
from get3d_model.errors import InputError


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an address; copy it to a folder first (`get3d data pull`)"
        )
    return Path(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, help="each has its own --help"
    )

    merge = actions.add_parser("merge", help="make the parts of `get3d render --shard i/n` one data set")
    merge.add_argument("out", metavar="OUT", help="the folder, or the address, that the jobs rendered into")
    merge.add_argument(
        "--parts", type=Path, nargs="+", metavar="DIR", help="the parts, below OUT; all in OUT unless given"
    )

    stats = actions.add_parser("stats", help="what a data set holds")
    stats.add_argument(
        "dir", type=_folder, metavar="DIR", help="shards, the published layout, or a mixture file"
    )
    stats.add_argument("--json", action="store_true", help="as JSON")

    verify = actions.add_parser("verify", help="decode every image, check every camera, hash and split")
    verify.add_argument(
        "dir", type=_folder, metavar="DIR", help="shards, the published layout, or a mixture file"
    )
    verify.add_argument("--limit", type=int, default=20, help="problems shown (default: 20)")
    verify.add_argument("--threads", type=int, help="one per processor unless given")

    convert = actions.add_parser("convert", help="between the published layout and shards")
    convert.add_argument("source", type=_folder, metavar="SRC", help="a data set in either layout")
    convert.add_argument("out", type=_folder, metavar="DST", help="a new or empty folder")
    convert.add_argument("--to", choices=("shards", "published"), required=True, help="the layout of DST")
    convert.add_argument("--category", help="folder of all shapes below img/; one per class unless given")
    convert.add_argument("--shapes-per-shard", type=int, help="about half a GiB of them unless given")

    sheet = actions.add_parser("sheet", help="pictures of a data set on one sheet")
    sheet.add_argument(
        "dir", type=_folder, metavar="DIR", help="shards, the published layout, or a mixture file"
    )
    sheet.add_argument("out", type=Path, metavar="OUT.png", help="the sheet")
    sheet.add_argument("--shapes", type=int, default=24, help="at most, evenly spread (default: %(default)s)")
    sheet.add_argument("--views", type=int, default=4, help="of each shape (default: %(default)s)")
    sheet.add_argument("--size", type=int, default=128, help="of a picture, pixels (default: %(default)s)")
    sheet.add_argument("--columns", type=int, default=2, help="shapes side by side (default: %(default)s)")
    sheet.add_argument("--split", help="only shapes of this split, such as val")

    push = actions.add_parser("push", help="copy a finished data set or part to an object store")
    push.add_argument("dir", type=_folder, metavar="DIR", help="shards with their manifest")
    push.add_argument(
        "url", metavar="URL", help="such as s3://bucket/folder; its fsspec driver must be installed"
    )

    pull = actions.add_parser("pull", help="copy a data set or its parts from an object store")
    pull.add_argument("url", metavar="URL", help="where `push` put it")
    pull.add_argument("dir", type=_folder, metavar="DIR", help="what is there already is not copied again")

    pointer = actions.add_parser("pointer", help="write a file that stands for data in a DVC repository")
    pointer.add_argument("source", metavar="dvc://REPO@REV:PATH", help="what DVC tracks at PATH")
    pointer.add_argument(
        "--out", type=Path, required=True, metavar="FILE.json", help="with the commit and the content's hash"
    )


def run(args: argparse.Namespace) -> None:
    """Does what the arguments say. Raises InputError for bad input, and for a data set with problems."""
    actions = {
        "merge": _merge,
        "stats": _stats,
        "verify": _verify,
        "convert": _convert,
        "sheet": _sheet,
        "push": _push,
        "pull": _pull,
        "pointer": _pointer,
    }
    actions[args.action](args)


def _merge(args: argparse.Namespace) -> None:
    from components.artifacts import monitoring_steps
    from get3d_model.data.parts import merge_parts
    from get3d_model.files import clear_disk_errors

    if "://" in args.out:
        from components.render.remote import merge_at

        if args.parts:
            raise InputError("--parts names folders; of an address all parts are merged")
        manifest = merge_at(args.out)
    else:
        with clear_disk_errors(Path(args.out), "make space or access, then merge again"):
            manifest = merge_parts(Path(args.out), args.parts)
    print(
        f"{args.out}: {manifest.samples} images of {len(manifest.shapes)} shapes in {len(manifest.shards)} tars,"
        f" {len(manifest.rejected)} meshes set aside"
    )
    # Every part has told its own count, and the last one's has remained.
    monitoring_steps().report_rows("render", len(manifest.shapes), len(manifest.rejected))


def _stats(args: argparse.Namespace) -> None:
    from get3d_model.data.stats import dataset_stats

    stats = dataset_stats(args.dir)
    print(json.dumps(stats.to_json(), indent=2) if args.json else stats.describe())


def _verify(args: argparse.Namespace) -> None:
    from components.render.progress import Progress, log
    from get3d_model.data.stats import dataset_stats
    from get3d_model.data.verify import verify_dataset

    if args.limit < 1:
        raise InputError(f"--limit must be at least 1, not {args.limit}")
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads must be at least 1, not {args.threads}")
    try:
        total = dataset_stats(args.dir).images
    except InputError:
        total = 0  # what is wrong comes below, with everything else
    count = 0
    with Progress(total, "image") as progress:
        for problem in verify_dataset(args.dir, progress.advance, args.threads):
            count += 1
            if count <= args.limit:
                log(problem)
    if count:
        more = f", of which {args.limit} are listed (--limit)" if count > args.limit else ""
        raise InputError(f"{args.dir} has {count} problem{'s' * (count > 1)}{more}; fetch or render it again")
    print(f"{args.dir}: {total} images and their cameras are sound")


def _convert(args: argparse.Namespace) -> None:
    from components.render.progress import Progress
    from get3d_model.data.convert import convert_dataset
    from get3d_model.data.stats import dataset_stats
    from get3d_model.files import clear_disk_errors

    if args.shapes_per_shard is not None and args.shapes_per_shard < 1:
        raise InputError(f"--shapes-per-shard must be at least 1, not {args.shapes_per_shard}")
    with (
        clear_disk_errors(args.out, "make space or access, then convert again"),
        Progress(dataset_stats(args.source).shapes, "shape") as progress,
    ):
        manifest = convert_dataset(
            args.source,
            args.out,
            args.to,
            category=args.category,
            shard_shapes=args.shapes_per_shard,
            on_shape=progress.advance,
        )
    print(f"{args.out}: {len(manifest.shapes)} shapes in the {args.to} layout")


def _sheet(args: argparse.Namespace) -> None:
    from get3d_model.data.sheet import write_sheet
    from get3d_model.files import clear_disk_errors

    for name in ("shapes", "views", "columns"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if not 16 <= args.size <= 1024:
        raise InputError(f"--size must be 16 to 1024, not {args.size}")
    with clear_disk_errors(args.out.parent, "make space or access, then try again"):
        count = write_sheet(
            args.dir,
            args.out,
            shapes=args.shapes,
            views=args.views,
            size=args.size,
            columns=args.columns,
            split=args.split,
        )
    print(f"{args.out}: {count} shapes of {args.dir}")


def _push(args: argparse.Namespace) -> None:
    from components.render.progress import Progress
    from get3d_model.data.remote import push_dataset

    with Progress(0, "file") as progress:
        count = push_dataset(args.dir, args.url, progress.advance)
    print(f"{args.url}: {count} files transferred")


def _pull(args: argparse.Namespace) -> None:
    from components.render.progress import Progress
    from get3d_model.data.remote import pull_dataset
    from get3d_model.files import clear_disk_errors

    with (
        clear_disk_errors(args.dir, "make space or access, then pull again"),
        Progress(0, "file") as progress,
    ):
        count = pull_dataset(args.url, args.dir, progress.advance)
    print(f"{args.dir}: {count} files transferred")


def _pointer(args: argparse.Namespace) -> None:
    from components.data_pointer import DataPointer, open_pointer, parse_location
    from get3d_model.files import write_json_atomic

    location = parse_location(args.source)
    if not isinstance(location, DataPointer) or args.out.suffix != ".json":
        raise InputError(f"{args.source}: give dvc://REPO@REVISION:PATH, and a file that ends in .json")
    with open_pointer(location) as (resolved, _, _):
        write_json_atomic(args.out, resolved.to_json())
    print(f"{args.out}: {resolved}, {resolved.files} files, {resolved.size / 1e6:.1f} MB")


main = command_main("get3d data", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
