"""The `get3d` command: one subcommand per step. Exit 0; 2 with one line on bad input; 1 on our own bugs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from get3d_model.entry_point import HelpFormatter, disk_errors, exit_code
from get3d_model.errors import InputError
from monitoring.steps import timed

# Subcommand: (module with add_arguments and run, what it does). Only the chosen module is imported.
COMMANDS: dict[str, tuple[str, str]] = {
    "synth": ("components.synth.main", "make procedural textured vehicles, so that a fresh clone has data"),
    "render": ("components.render.main", "render a folder of meshes into a training data set"),
    "data": ("components.data.main", "merge, describe, check and convert data sets"),
    "train": ("components.train.main", "train a generator; resumes by itself"),
    "train-job": (
        "components.train.launch",
        "train on one or several machines: submit, follow, cancel with the command",
    ),
    "evaluate": ("components.evaluate.main", "measure a checkpoint against held-out meshes"),
    "gate": ("components.gate.main", "stop where the evaluation holds the model back"),
    "metrics": ("components.metrics.main", "compare two folders of meshes, from any generator"),
    "generate": ("components.generate.main", "sample textured meshes from a checkpoint"),
    "interpolate": (
        "components.generate.interpolate",
        "walk between two seeds: meshes, a strip of renders and an animation",
    ),
    "perturb": ("components.generate.perturb", "shapes around a seed: meshes and a strip of renders"),
    "swap": (
        "components.generate.swap",
        "geometry of some seeds with texture of others: meshes and a grid of renders",
    ),
    "export": ("components.export.main", "write a Triton model repository"),
    "import-checkpoint": (
        "components.import_checkpoint.main",
        "take over a checkpoint of the published GET3D implementation",
    ),
    "export-checkpoint": (
        "components.export_checkpoint.main",
        "write a checkpoint in the published format, or as one file",
    ),
    "serve": ("serving.server", "run the Triton server on this machine"),
    "deploy": ("components.deploy.main", "roll a new version out to running servers, or back"),
    "probe": ("serving.probe", "whether a server is alive (a real inference) or ready"),
    "sample": ("components.sample.main", "sample textured meshes over gRPC"),
    "studio": ("serving.studio.command", "a page to sample with, in front of a running server"),
    "report": ("components.report.main", "contact sheet and self-contained HTML report of a run"),
    "version": ("components.version.main", "record a run as a git branch with its data in the DVC remote"),
    "validate": ("components.validate.main", "check what a pipeline run is given, before anything starts"),
    "pipeline": ("pipelines.command", "the Kubeflow pipeline: compile it, run it on this machine, submit it"),
    "monitor": ("pipelines.monitor", "run Prometheus, Alertmanager and Pushgateway on this machine"),
    "doctor": (
        "pipelines.doctor",
        "what is installed, which backends work, what is missing and how to get it",
    ),
}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The whole parser; only `command`'s own arguments are filled in, because that imports its module."""
    parser = argparse.ArgumentParser(
        prog="get3d", description="From a folder of meshes to a service that samples new textured ones."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=HelpFormatter
        )
        if name == command:
            loaded = importlib.import_module(module)
            loaded.add_arguments(subparser)
            subparser.set_defaults(run=loaded.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # Beside other work on the same cores, torch's OpenMP threads that spin while they wait slow a step down
    # tenfold and more; a short spin costs nothing alone. Read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    command = next((word for word in argv if not word.startswith("-")), None)
    args = build_parser(command).parse_args(argv)
    try:
        with timed(args.command), disk_errors():
            args.run(args)
    except (InputError, KeyboardInterrupt) as error:
        return exit_code(f"get3d {args.command}", error)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
