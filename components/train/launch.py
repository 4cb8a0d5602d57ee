"""`get3d train-job`: submits a training on one or several nodes, follows it, and ends with it.

    get3d train-job --config params.yaml --data data/rendered --out outputs/train --procs-per-node 2
    get3d train-job --config params.yaml --data s3://bucket/set --out /data/runs/a --nodes 4 --procs-per-node 8 \
        --scheduler kubernetes --profile cluster.yaml

Ends with 0 when the training is done, with 2 and one line when it failed, was never scheduled or took too long, and
cancels the job when it is itself told to end. Run again, it resumes from the last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import posixpath
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.cluster_profile import ClusterProfile, load_profile, quantity_bytes
from components.train.output_lock import lock_path, take
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError

if TYPE_CHECKING:
    from components.train.job_spec import JobSpec

SCHEDULERS = ("local_cwd", "kubernetes", "indexed-job")
_LOCK_WAIT_S = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("params.yaml"), help="params file")
    parser.add_argument(
        "--data",
        required=True,
        help="rendered data set: a folder that every node sees, or s3://bucket/folder",
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder for checkpoints and metrics that every node sees, as the pods see it",
    )
    parser.add_argument("--nodes", type=int, default=1, help="machines (pods) that train together")
    parser.add_argument(
        "--procs-per-node", type=int, help="processes on each; by default one per GPU of the profile, else 1"
    )
    parser.add_argument(
        "--scheduler",
        choices=SCHEDULERS,
        default="local_cwd",
        help="local_cwd: processes on this machine; kubernetes: a Volcano job; indexed-job: for clusters without Volcano",
    )
    parser.add_argument("--profile", type=Path, help="cluster profile (docs/training-jobs.md)")
    parser.add_argument("--name", default="get3d-train", help="what the job's name begins with")
    parser.add_argument(
        "--timeout-s", type=float, help="cancel a job that takes longer; no limit unless given"
    )
    parser.add_argument(
        "--schedule-timeout-s",
        type=float,
        default=1800.0,
        help="cancel a job whose nodes do not all run for this long",
    )
    parser.add_argument(
        "--max-retries",
        type=int,
        help="restarts from the last checkpoint; the profile's unless given, else 3",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted")
    parser.add_argument("--init-from", default="", help="as for `get3d train`")
    parser.add_argument("--restart-on-change", action="store_true", help="as for `get3d train`")
    parser.add_argument("--metrics-textfile", default="", help="as for `get3d train`")
    parser.add_argument("--cache-dir", default="", help="as for `get3d train`; in pods the profile's scratch")
    parser.add_argument(
        "--cache-gb",
        type=float,
        help="as for `get3d train`; in pods nine tenths of the profile's scratch unless given",
    )


def run(args: argparse.Namespace) -> None:
    """Returns when the training is done. Raises InputError, JobFailed, JobCancelled."""
    from components.train.follow import Limits, caught_signals, follow

    spec = _spec(args)
    caught: list[int] = []
    with caught_signals(caught):
        local = args.scheduler == "local_cwd"
        alone = _only_one(Path(spec.out), caught) if local and not args.dry_run else contextlib.nullcontext()
        with alone, contextlib.closing(make_job(args.scheduler, spec)) as job:
            if args.dry_run:
                print(job.describe(), end="")
                return
            # Once more, because TorchX took the signals for itself when the job was made.
            with caught_signals(caught):
                _print(job.submit())
                poll_s = 0.5 if local else 2.0
                follow(job, Limits(args.schedule_timeout_s, args.timeout_s, poll_s), _print, caught)


def _print(line: str) -> None:
    print(line, flush=True)


def make_job(scheduler: str, spec: JobSpec) -> Any:
    """The job, not yet submitted; only the libraries of its scheduler are imported."""
    if scheduler == "local_cwd":
        from components.train.local_job import LocalJob

        return LocalJob(spec)
    if scheduler == "kubernetes":
        from components.train.volcano import VolcanoJob

        return VolcanoJob(spec)
    from components.train.indexed_job import IndexedJob

    return IndexedJob(spec)


def _spec(args: argparse.Namespace) -> JobSpec:
    """Checks everything that can be checked before a machine is asked for."""
    from components.train.job_spec import MAX_NODES, SCRATCH, JobSpec
    from get3d_model.config import load_config

    config = load_config(args.config)
    profile = load_profile(args.profile) if args.profile else None
    local = args.scheduler == "local_cwd"
    if profile is None and not local:
        raise InputError(
            f"--scheduler {args.scheduler} needs --profile, a cluster profile; see docs/training-jobs.md"
        )
    procs = args.procs_per_node
    if procs is None:
        procs = max(1, profile.gpu.count if profile else 1)
    if not 1 <= args.nodes <= MAX_NODES:
        raise InputError(f"--nodes must be 1 to {MAX_NODES}, not {args.nodes}")
    if args.cache_gb is not None and not 0 < args.cache_gb < math.inf:
        raise InputError(f"--cache-gb must be above 0, not {args.cache_gb:g}; for the default leave it out")
    if procs < 1:
        raise InputError(f"--procs-per-node must be at least 1, not {procs}")
    if profile and profile.gpu.count and procs > profile.gpu.count:
        raise InputError(
            f"--procs-per-node {procs} is more than the {profile.gpu.count} GPUs of a pod in {args.profile}; one process "
            "needs one GPU"
        )
    if config.training.batch_size % (args.nodes * procs):
        raise InputError(
            f"{args.config}: training.batch_size {config.training.batch_size} does not divide over {args.nodes} x {procs} "
            "processes; use a multiple"
        )
    for name in ("schedule_timeout_s", "timeout_s"):
        value = getattr(args, name)
        # Not `<=`, which lets nan through.
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} must be positive, not {value:g}")
    if args.max_retries is not None and args.max_retries < 0:
        raise InputError(f"--max-retries must be 0 or more, not {args.max_retries}")
    remote = "://" in args.data
    if local and not remote and not Path(args.data).is_dir():
        raise InputError(
            f"the data set folder {args.data} does not exist; check the path or run `get3d render` first"
        )
    if not local:
        assert profile is not None
        if "://" in args.out or not args.out.startswith("/"):
            raise InputError(f"--out must be an absolute folder on a volume of the pods, not {args.out!r}")
        for option, path in (("--out", args.out), ("--data", "" if remote else args.data)):
            whole = posixpath.normpath(path) + "/"
            inside = [mount for mount in profile.pvcs if whole.startswith(mount.path.rstrip("/") + "/")]
            if path and not inside:
                raise InputError(
                    f"{option} {path} is on no volume of the pods; {args.profile} mounts "
                    f"{', '.join(mount.path for mount in profile.pvcs) or 'none'}: add one to pvcs or change the path"
                )
            if option == "--out" and all(mount.read_only for mount in inside):
                raise InputError(f"--out {path} is on a volume that {args.profile} mounts read-only")
    retries = args.max_retries if args.max_retries is not None else profile.max_retries if profile else 3
    return JobSpec(
        config=args.config,
        data=args.data,
        out=args.out,
        nodes=args.nodes,
        procs_per_node=procs,
        name=args.name,
        max_retries=retries,
        init_from=args.init_from,
        restart_on_change=args.restart_on_change,
        metrics_textfile=args.metrics_textfile,
        cache_dir=args.cache_dir or ("" if local else SCRATCH),
        cache_gb=args.cache_gb or (0.0 if local else _scratch_gb(profile)),
        profile=profile,
    )


def _scratch_gb(profile: ClusterProfile | None) -> float:
    """What the data set may take of the scratch volume; a pod that writes more than the volume's size is evicted."""
    assert profile is not None
    return round(0.9 * quantity_bytes(profile.scratch_size) / 1e9, 3)


@contextlib.contextmanager
def _only_one(out: Path, caught: list[int]) -> Iterator[None]:
    """Waits for the processes of a launcher that was killed, which save and end: two jobs must not write into one folder.

    The launcher and every process of its job hold the lock together (rank.py).
    """
    from components.train.follow import JobCancelled

    out.mkdir(parents=True, exist_ok=True)
    with open(lock_path(out), "a") as handle:
        deadline, told = time.monotonic() + _LOCK_WAIT_S, False
        while not take(handle):
            if caught:
                raise JobCancelled(caught[0], "that was not submitted yet")
            if time.monotonic() > deadline:
                raise InputError(
                    f"another training job is writing into {out}; wait for its end, or give another --out"
                )
            if not told:
                told = True
                _print(f"waiting for the processes of another job in {out} to end")
            time.sleep(0.2)
        yield


main = command_main("get3d train-job", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
