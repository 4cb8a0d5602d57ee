"""`get3d synth`: a folder of procedural textured vehicles with its split, so that a fresh clone has data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic

MAX_COUNT = 1_000_000
VAL_EVERY = 8  # one shape in eight validates; not a multiple of the number of kinds, so that all kinds do


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `get3d synth`."""
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder for vehicle_0000.glb ..., train.txt, val.txt"
    )
    parser.add_argument(
        "--count", type=int, default=96, help="number of vehicles, at least 2 (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="vehicle i depends on the seed and i alone (default: %(default)s)"
    )


def shape_id(index: int) -> str:
    return f"vehicle_{index:04d}"


def split_ids(count: int) -> dict[str, list[str]]:
    """Shape ids of "train" and "val"; both are non-empty from two shapes on."""
    val = set(range(VAL_EVERY - 1, count, VAL_EVERY)) or {count - 1}
    return {
        "train": [shape_id(index) for index in range(count) if index not in val],
        "val": [shape_id(index) for index in sorted(val)],
    }


def write_vehicles(out: Path, count: int, seed: int) -> None:
    """Writes the vehicles and split files; the same arguments give the same bytes.

    Raises InputError for fewer than two vehicles or more than a million, a negative seed, and a folder that holds other meshes,
    which would silently become part of the data.
    """
    # Here and not above, so that `get3d synth --help` does not wait for torch.
    from get3d_model.data.vehicles import make_vehicle, vehicle_kinds
    from get3d_model.mesh_io import save_scene

    if count < 2:
        raise InputError(f"--count {count} is too small: training and validation need at least 2 vehicles")
    if count > MAX_COUNT:
        raise InputError(f"--count {count} is too large; at most {MAX_COUNT} vehicles can be made")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative; give 0 or more")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder to write the vehicles into")
    expected = {f"{shape_id(index)}.glb" for index in range(count)}
    others = (
        sorted(path.name for path in out.glob("*.glb") if path.name not in expected) if out.is_dir() else []
    )
    if others:
        raise InputError(
            f"{out}: holds {len(others)} other meshes ({others[0]} ...); empty it or give another folder"
        )
    kinds = vehicle_kinds()
    for index in tqdm(range(count), desc="vehicles", unit="mesh", disable=not sys.stderr.isatty()):
        extras = {"generator": "get3d synth", "index": index, "kind": kinds[index % len(kinds)], "seed": seed}
        save_scene(make_vehicle(index, seed), out / f"{shape_id(index)}.glb", extras)
    for name, ids in split_ids(count).items():
        write_bytes_atomic(out / f"{name}.txt", ("\n".join(ids) + "\n").encode())


def run(args: argparse.Namespace) -> None:
    write_vehicles(args.out, args.count, args.seed)
    print(f"{args.count} vehicles in {args.out}")


main = command_main("get3d synth", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
