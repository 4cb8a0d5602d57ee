"""`get3d report`: contact_sheet.png and report.html, the page to open after a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from get3d_model.entry_point import command_main

SHEET_FILE = "contact_sheet.png"
PAGE_FILE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("params.yaml"), help="params file of the run")
    parser.add_argument("--data", type=Path, required=True, help="rendered data set")
    parser.add_argument(
        "--meshes", type=Path, required=True, help="the folder the data set was rendered from"
    )
    parser.add_argument(
        "--training", type=Path, required=True, help="training folder; its newest checkpoint is shown"
    )
    parser.add_argument("--metrics", type=Path, required=True, help="metrics.json of that checkpoint")
    parser.add_argument(
        "--samples", type=Path, required=True, help="folder with samples.json from `get3d sample`"
    )
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {SHEET_FILE} and {PAGE_FILE}")
    parser.add_argument(
        "--credits", default="", help="who made the meshes, under which licence; printed on both"
    )


def run(args: argparse.Namespace) -> None:
    """Raises InputError for a missing or foreign input, naming the path and the step to run."""
    from components.report.bands import make_bands
    from components.report.contact_sheet import CELL, contact_sheet
    from components.report.inputs import read_inputs
    from components.report.page import report_html
    from get3d_model.files import write_bytes_atomic
    from get3d_model.image_grid import save_image

    inputs = read_inputs(args.config, args.data, args.meshes, args.training, args.metrics, args.samples)
    identity = inputs.sampler.identity
    start = inputs.config.training.init_from
    trained = f"trained on {identity.kimg:g} kimg" + (f" from {Path(start).name} on" if start else "")
    sheet = contact_sheet(
        inputs.config.name,
        f"GET3D, {trained}, checkpoint {identity.sha256[:12]}",
        make_bands(inputs, CELL),
        args.credits,
    )
    page = report_html(inputs, sheet, args.credits)
    save_image(sheet, args.out / SHEET_FILE)
    write_bytes_atomic(args.out / PAGE_FILE, page.encode())
    print(f"{SHEET_FILE} and {PAGE_FILE} in {args.out}")


main = command_main("get3d report", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
