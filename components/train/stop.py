"""Stops training jobs whose launcher is gone: a pod that was killed could not cancel what it had submitted."""

from __future__ import annotations

import contextlib
from pathlib import Path

from components.cluster_profile import load_profile
from get3d_model.errors import InputError


def stop_jobs(training: Path, scheduler: str, profile: Path | None) -> list[str]:
    """Cancels every job on the cluster that still trains into this folder; returns their names. Raises InputError.

    On this machine there is nothing to do: the processes of a job end with their launcher.
    """
    if scheduler == "local_cwd":
        return []
    if profile is None:
        raise InputError(f"scheduler {scheduler} needs a cluster profile")
    from components.train.job_spec import JobSpec
    from components.train.launch import make_job
    from components.train.step import params_file

    spec = JobSpec(params_file(training), "", str(training), 1, 1, profile=load_profile(profile))
    with contextlib.closing(make_job(scheduler, spec)) as job:
        return job.cancel_all()
