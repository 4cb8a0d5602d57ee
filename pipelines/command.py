"""`get3d pipeline`: the Kubeflow pipeline, compiled to a file, run on this machine, or submitted to a cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from get3d_model.entry_point import HelpFormatter

DEFAULT_PACKAGE = Path("get3d-training.yaml")
SCHEDULERS = ("local_cwd", "kubernetes", "indexed-job")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, help="each has its own --help"
    )
    options = {"formatter_class": HelpFormatter}
    compile_ = actions.add_parser(
        "compile", help="write the YAML that is uploaded in the Kubeflow UI", **options
    )
    add_compile_options(compile_)
    compile_.add_argument("--out", type=Path, default=DEFAULT_PACKAGE, help="the YAML file")
    compile_.set_defaults(execute=_compile)

    run_ = actions.add_parser("run", help="run the same DAG on this machine", **options)
    add_run_options(run_)
    run_.set_defaults(execute=_run)

    submit = actions.add_parser(
        "submit", help="upload a version to Kubeflow, run it, and follow the run", **options
    )
    add_compile_options(submit)
    add_submit_options(submit)
    submit.set_defaults(execute=_submit)


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--profile", type=Path, help="cluster profile (docs/pipeline.md): image, volumes, GPUs, credentials")
    add(
        "--scheduler", choices=SCHEDULERS, default=None,
        help="where training runs: local_cwd is the step's own pod; unless given, a Volcano job where there is a profile",
    )  # fmt: skip
    add("--workspace", help="default of the parameter workspace; the profile's first volume unless given")
    add("--render-parallelism", type=int, default=0, help="render jobs at a time; 0: all")
    add("--retries", type=int, default=2, help="of the steps that are safe to repeat")
    add("--no-cache", action="store_true", help="run every step, also those that did the same before")


def add_parameters(parser: argparse.ArgumentParser, local: bool) -> None:
    """The parameters of a run. local: with defaults; otherwise those of the compiled pipeline hold."""
    add = parser.add_argument

    def default(value: object) -> object:
        return value if local else None

    add("--params", default=default("params.yaml"), help="params file, or the name of a preset")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting: training.r1_gamma=80",
    )
    add(
        "--meshes",
        help="folder or .zip, dvc://REPO@REVISION:PATH, or s3://...; procedural vehicles unless given",
    )
    add("--shards", type=int, default=default(3), help="jobs that render, each a part of the meshes")
    add("--nodes", type=int, default=default(1), help="machines that train")
    add("--procs-per-node", type=int, default=default(2), help="training processes on each, one per GPU")
    add(
        "--deploy-timeout-s", type=int, default=default(300),
        help="seconds that one step of deploying may take on one server",
    )  # fmt: skip
    add(
        "--promote",
        choices=("auto", "always", "never"),
        default=default("auto"),
        help="who decides: the gate, or you",
    )
    add("--served-repository", help="model repository that Triton serves; nothing is deployed unless given")
    add("--triton-urls", help="HOST:PORT of every replica's gRPC, separated by commas")
    add("--git-repository", help="repository that the run's version is recorded in; none unless given")
    add("--git-revision", help="commit or branch that the run belongs to")
    add("--run-id", help="name of the run; made up unless given")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_parameters(parser, local=True)
    add(
        "--workspace",
        type=Path,
        default=Path("outputs/pipeline"),
        help="folder for everything that the steps make",
    )
    add("--render-workers", type=int, default=1, help="processes of a render job, two of which run at a time")
    add("--no-cache", action="store_true", help="run every step, also those that did the same before")
    add("--verbose", action="store_true", help="everything that kfp says; it is in the log file in any case")


def add_submit_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", required=True, help="URL of Kubeflow Pipelines, such as http://localhost:8888")
    add("--namespace", help="the user's, where Kubeflow has several")
    add("--token-file", type=Path, help="file with a bearer token; KFP_TOKEN in the environment works too")
    add("--package", type=Path, help="compiled pipeline to upload instead of compiling now")
    add("--pipeline-name", default="get3d-training", help="the pipeline that versions are added to")
    add("--experiment", default="get3d", help="made where there is none")
    add_parameters(parser, local=False)
    add(
        "--pipeline-root", help="where artifacts go, such as s3://bucket/path; the cluster's own unless given"
    )
    add("--service-account", help="of the steps' pods; the profile's unless given")
    add("--no-follow", action="store_true", help="do not wait for the end of the run")
    add("--timeout-s", type=float, default=0.0, help="stop waiting after so long; 0: never. The run goes on")
    add("--poll-s", type=float, default=5.0, help="seconds between two looks at the run")
    add(
        "--schedule",
        help="a cron line of six fields, such as '0 0 2 * * 1': a recurring run instead of one now",
    )
    add("--every-s", type=int, help="a recurring run, so many seconds apart")
    add("--max-concurrency", type=int, default=1, help="of a recurring run")


def _compile(args: argparse.Namespace) -> None:
    from pipelines.compile import compile_pipeline, options_from

    written = compile_pipeline(args.out, options_from(args))
    print(f"{written}: upload it in the Kubeflow UI (Pipelines, Upload pipeline), or `get3d pipeline submit`")


def _run(args: argparse.Namespace) -> None:
    from pipelines.run import run_pipeline

    run_pipeline(args)


def _submit(args: argparse.Namespace) -> None:
    from pipelines.submit import submit

    submit(args)


def run(args: argparse.Namespace) -> None:
    """Does what the arguments say. Raises InputError."""
    args.execute(args)
