"""`get3d pipeline compile`: the YAML that a user uploads in the Kubeflow UI."""

from __future__ import annotations

import argparse
from pathlib import Path

from kfp import compiler

from components.cluster_profile import load_profile
from get3d_model.errors import InputError
from get3d_model.files import atomic_path
from pipelines.training_pipeline import PipelineOptions, build_pipeline


def options_from(args: argparse.Namespace) -> PipelineOptions:
    """From the command line. Raises InputError."""
    profile = load_profile(args.profile) if args.profile else None
    scheduler = args.scheduler or ("kubernetes" if profile is not None else "local_cwd")
    workspace = args.workspace
    if workspace is None and profile is not None:
        writable = [mount for mount in profile.pvcs if not mount.read_only]
        if not writable:
            raise InputError(
                f"{args.profile}: pvcs has no writable volume, through which the steps pass data sets and checkpoints; add one"
            )
        workspace = writable[0].path
    return PipelineOptions(
        profile=profile,
        scheduler=scheduler,
        render_parallelism=args.render_parallelism,
        retries=args.retries,
        caching=not args.no_cache,
        workspace=workspace or PipelineOptions.workspace,
    )


def compile_pipeline(out: Path, options: PipelineOptions) -> Path:
    """Writes the pipeline; returns the path. Raises InputError for a name that kfp does not take, and for a place that
    cannot be written."""
    out = Path(out)
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {out}: must end in .yaml")
    # Equal options give equal bytes: kfp writes no time and no machine into it.
    pipeline = build_pipeline(options)
    try:
        with atomic_path(out) as temporary:
            compiler.Compiler().compile(pipeline, str(temporary))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None
    return out
