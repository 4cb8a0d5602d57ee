"""The options of `get3d sample`, and the requests that they mean."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from get3d_model.errors import InputError
from get3d_model.limits import MAX_SEED
from serving.codec import COLORS, FORMAT_SUFFIX, SampleRequest

MAX_COUNT = 1_000_000
"""Of the samples of one run, which are all planned before the first."""
SEED, COUNT = 0, 4
LATENT_NAMES = ("z_geo", "z_tex", "w_geo", "w_tex")


@dataclass(frozen=True)
class NamedRequest:
    """stem: what its files are called, less suffixes."""

    stem: str
    request: SampleRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to sample")
    what.add_argument("--seed", type=int, help=f"first seed (default: {SEED})")
    what.add_argument(
        "--count", type=int, help=f"number of meshes, one per seed from --seed on (default: {COUNT})"
    )
    what.add_argument("--texture-seed", type=int, help="one texture for all; none: that of each seed")
    what.add_argument(
        "--mix", type=_seeds, metavar="A,B,...", help="one mesh between several seeds, by --weights"
    )
    what.add_argument("--weights", type=_shares, metavar="U,V,...", help="shares of --mix; none: equal ones")
    what.add_argument(
        "--between", type=_seeds, metavar="A,B", help="--count meshes on the way from seed A to seed B"
    )
    what.add_argument(
        "--latents", type=Path, metavar="FILE", help=".npz with rows of w_geo and w_tex (or z_geo and z_tex)"
    )
    what.add_argument("--class", dest="class_name", metavar="NAME", help="of a model that has classes")
    how = parser.add_argument_group("how to make it; what is left out is the model's choice")
    how.add_argument("--truncation-psi", type=float, help="0 (average) to 1 (varied)")
    how.add_argument("--format", choices=tuple(FORMAT_SUFFIX), help="file format")
    how.add_argument("--color", choices=COLORS, help="a texture, or colours at the vertices")
    how.add_argument("--texture-resolution", type=int, help="texels along a side")
    how.add_argument("--triangles", type=int, help="at most about so many; larger meshes are decimated")
    more = parser.add_argument_group("what else to write")
    more.add_argument("--preview", type=int, metavar="PIXELS", help="a picture of each mesh, STEM.png")
    more.add_argument("--azimuth", type=float, metavar="DEGREES", help="where its camera stands")
    more.add_argument("--elevation", type=float, metavar="DEGREES", help="and how high")
    more.add_argument(
        "--turntable", type=int, metavar="FRAMES", help="pictures of a whole turn, STEM_000.png ..."
    )
    more.add_argument("--save-latents", action="store_true", help="STEM.npz, for --latents")
    more.add_argument("--no-mesh", action="store_true", help="only what else is asked for")


def requests_from(args: argparse.Namespace) -> list[NamedRequest]:
    """Raises InputError."""
    seed, count = SEED if args.seed is None else args.seed, COUNT if args.count is None else args.count
    if not 1 <= count <= MAX_COUNT:
        raise InputError(f"--count must be 1 to {MAX_COUNT}, not {count}")
    sources = [name for name in ("mix", "between", "latents") if getattr(args, name) is not None]
    if len(sources) > 1:
        raise InputError(f"--{' and --'.join(sources)} exclude each other; give one")
    if args.weights is not None and args.mix is None:
        raise InputError("--weights needs --mix, whose shares they are")
    for source, unused in (
        ("mix", ("seed", "count")),
        ("between", ("seed",)),
        ("latents", ("seed", "count")),
    ):
        given = [name for name in unused if getattr(args, name) is not None]
        if source in sources and given:
            raise InputError(f"--{source} does not go with --{' and --'.join(given)}; leave that out")
    common = _common(args)
    if args.mix is not None:
        weights = args.weights or tuple([1.0 / len(args.mix)] * len(args.mix))
        name = "mix" + "-".join(map(str, args.mix))
        return [NamedRequest(name, SampleRequest(args.mix, weights=weights, **common))]
    if args.between is not None:
        return _walk(args.between, count, common)
    if args.latents is not None:
        return _from_file(args.latents, common)
    if seed + count - 1 > MAX_SEED:
        raise InputError(f"--seed {seed} with --count {count} passes the largest seed, {MAX_SEED}")
    return [
        NamedRequest(f"seed{number:04d}", SampleRequest(number, **common))
        for number in range(seed, seed + count)
    ]


def _common(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that all requests share."""
    pictures = args.preview is not None or args.turntable is not None
    if not pictures and (args.azimuth is not None or args.elevation is not None):
        raise InputError("--azimuth and --elevation are for --preview or --turntable; give one of these")
    wanted = {"mesh": not args.no_mesh, "latent": args.save_latents, "preview": pictures}
    deliver = ",".join(name for name, yes in wanted.items() if yes)
    if not deliver:
        raise InputError("--no-mesh leaves nothing to write; add --preview, --turntable or --save-latents")
    return {
        "truncation_psi": args.truncation_psi,
        "texture_resolution": args.texture_resolution,
        "file_format": args.format,
        "seed_tex": args.texture_seed,
        "class_name": args.class_name,
        "deliver": None if deliver == "mesh" else deliver,
        "color": args.color,
        "target_triangles": args.triangles,
        "preview_resolution": args.preview,
        "preview_azimuth_deg": args.azimuth,
        "preview_elevation_deg": args.elevation,
        "preview_frames": args.turntable,
    }


def _walk(ends: tuple[int, ...], count: int, common: dict[str, Any]) -> list[NamedRequest]:
    if len(ends) != 2 or count < 2:
        raise InputError("--between needs two seeds, and --count at least 2")
    shares = [step / (count - 1) for step in range(count)]
    return [
        NamedRequest(f"step{step:04d}", SampleRequest(ends, weights=(1.0 - share, share), **common))
        for step, share in enumerate(shares)
    ]


def _from_file(path: Path, common: dict[str, Any]) -> list[NamedRequest]:
    """One request per row of the arrays. Raises InputError."""
    try:
        # allow_pickle stays off: a file of latents must not run code.
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.atleast_2d(file[name]) for name in LATENT_NAMES if name in file}
    except (OSError, EOFError, zipfile.BadZipFile, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not an .npz file of arrays ({error})") from None
    rows = {len(array) for array in arrays.values()}
    if len(rows) != 1 or rows == {0}:
        raise InputError(f"{path}: needs arrays of as many rows each, named {', '.join(LATENT_NAMES)}")
    return [
        NamedRequest(f"latent{row:04d}", SampleRequest(**{n: a[row] for n, a in arrays.items()}, **common))
        for row in range(rows.pop())
    ]


def _seeds(text: str) -> tuple[int, ...]:
    return _numbers(text, int, "whole numbers")


def _shares(text: str) -> tuple[float, ...]:
    return _numbers(text, float, "numbers")


def _numbers(text: str, kind: Callable[[str], Any], what: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what} with commas between") from None
