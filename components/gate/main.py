"""`get3d gate`: goes on where the evaluation lets the model through, and stops with status 2 where it does not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from get3d_model.entry_point import command_main
from get3d_model.errors import InputError

PROMOTE = ("auto", "always", "never")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--evaluation", type=Path, required=True, help="folder of `get3d evaluate`, with gate.json"
    )
    parser.add_argument(
        "--promote",
        choices=PROMOTE,
        default="auto",
        help="auto: the thresholds of the evaluation decide (evaluation.thresholds in the params file)",
    )


def run(args: argparse.Namespace) -> None:
    """Raises InputError where the model is held."""
    from components.evaluate.step import verdict

    found = verdict(str(args.evaluation), args.promote)
    reasons = "; ".join(found["reasons"])
    if found["decision"] != "promote":
        advice = "" if args.promote == "never" else "; train better, or change evaluation.thresholds"
        raise InputError(f"the model is held: {reasons}{advice}")
    print(f"promoted: {reasons}")


main = command_main("get3d gate", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
