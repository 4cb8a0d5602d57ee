"""Prints `NAME array max_rel_err` for every array of every NAME.npz in a folder; exits 1 on a failure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.parity.compare import TOLERANCE, compare_case


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds NAME.json and NAME.npz pairs")
    folder = parser.parse_args().folder
    names = sorted(path.stem for path in folder.glob("*.npz"))
    if not names:
        print(f"{folder}: no NAME.npz reference arrays here", file=sys.stderr)
        return 1
    failed = missing = passed = 0
    for name in names:
        if not (folder / f"{name}.json").is_file():
            print(f"{name} * inf  {name}.json is missing")
            failed += 1
            continue
        for line in compare_case(folder, name):
            print(line)
            failed += line.failed
            missing += line.error is None
            passed += line.error is not None and not line.failed
    print(f"{passed} arrays within {TOLERANCE:g}, {failed} failed, {missing} not implemented")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
