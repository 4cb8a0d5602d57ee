"""`get3d doctor`: what is installed, which backends work, what is missing and how to get it.

With --url, --metrics, --prometheus, --folder or --remotes it looks at a deployment instead.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from get3d_model.errors import InputError

# Distributions that the default install must hold, with what they are for.
PACKAGES = {
    "torch": "model and training",
    "numba": "CPU rasteriser",
    "trimesh": "mesh files",
    "xatlas": "UV unwrapping",
    "dvc": "reproducible pipeline",
    "nvidia-pytriton": "the Triton server",
    "tritonclient": "sampling over gRPC",
    "prometheus-client": "monitoring",
    "kfp": "Kubeflow pipelines",
    "torchx-nightly": "multi-node training",
}
OPTIONAL = {
    "nvdiffrast": "rasteriser on NVIDIA GPUs; build it from source (see README, 'What needs a GPU')",
    "kaolin": "Chamfer distance on NVIDIA GPUs, and comparison tests there; build it from source",
    "torch-fidelity": "second opinion on FID and KID; with a CUDA build of torch and its torchvision (docs/evaluation.md)",
}
MIN_MEMORY_GB, MIN_DISK_GB = 6, 3


@dataclass(frozen=True)
class Check:
    """One line of the report. A failed check that is `required` makes the command exit with 2."""

    name: str
    ok: bool
    detail: str
    required: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", action="append", default=[], help="HOST:PORT of a server's gRPC; may be repeated"
    )
    parser.add_argument(
        "--resolve", action="store_true", help="every address that a host name of --url has is a replica"
    )
    parser.add_argument(
        "--metrics", action="append", default=[], help="URL of a server's metrics; may be repeated"
    )
    parser.add_argument("--prometheus", help="URL of a Prometheus server, such as http://127.0.0.1:9090")
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        default=[],
        help="where data, checkpoints or models lie; may be repeated",
    )
    parser.add_argument(
        "--remotes", type=Path, metavar="REPOSITORY", help="repository whose DVC remotes must answer"
    )
    # Where the client of the server is missing, the report must say so.
    with contextlib.suppress(ImportError):
        from serving.connection import add_connection_arguments

        add_connection_arguments(parser, url=False)


def deployment_checks(args: argparse.Namespace) -> Iterator[Check]:
    """What the arguments ask about."""
    from components.deploy.main import endpoints
    from pipelines import deployment
    from serving.connection import connection_from

    findings: list[Iterable[deployment.Finding]] = []
    replicas = deployment.Replicas()
    urls = endpoints(",".join(args.url), args.resolve) if args.url else []
    findings += [deployment.server(connection_from(args, url), replicas) for url in urls]
    findings += [[deployment.metrics_of(url, replicas)] for url in args.metrics]
    findings.append(replicas.compared())
    if args.prometheus:
        findings.append(deployment.prometheus(args.prometheus))
    findings.append(deployment.disk(args.folder))
    if args.remotes:
        findings.append(deployment.remotes(args.remotes))
    findings.append([deployment.gpu()])
    for group in findings:
        for finding in group:
            yield Check(finding.name, finding.ok, finding.detail)


def run(args: argparse.Namespace) -> None:
    if args.url or args.metrics or args.prometheus or args.folder or args.remotes:
        failed = 0
        for check in deployment_checks(args):
            print(f"{'ok ' if check.ok else 'BAD'} {check.name:20s} {check.detail}", flush=True)
            failed += not check.ok
        if failed:
            raise InputError(
                f"{failed} thing(s) are wrong with the deployment; the lines above say what to do"
            )
        return
    failed = 0
    for check in checks():
        sign = "ok     " if check.ok else ("MISSING" if check.required else "absent ")
        print(f"{sign} {check.name:20s} {check.detail}")
        failed += check.required and not check.ok
    if failed:
        raise InputError(f"{failed} required item(s) missing; the lines above say how to get them")


def checks() -> Iterator[Check]:
    """All checks, cheapest first."""
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info[:2] == (3, 11)
    yield Check(
        "python",
        fits,
        version if fits else f"{version}; 3.11 is needed: apt-get install python3 python3-venv",
    )
    yield Check(
        "system",
        platform.system() == "Linux",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )
    yield _command("git", "DVC keeps versions in it: apt-get install git")
    yield _command("make", "the two commands of the README: apt-get install make")
    yield _memory()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Check("disk", free >= MIN_DISK_GB, f"{free:.1f} GB free here; {MIN_DISK_GB} GB are needed")
    for name, purpose in PACKAGES.items():
        found = _version(name)
        yield Check(
            name, found is not None, f"{found} ({purpose})" if found else f"{purpose}; run `make install`"
        )
    for name, hint in OPTIONAL.items():
        found = _version(name)
        yield Check(name, found is not None, found or hint, required=False)
    yield from _backends()
    yield _blender()
    yield _triton()


def _command(name: str, hint: str) -> Check:
    path = shutil.which(name)
    return Check(name, path is not None, path or hint)


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Check("memory", total >= MIN_MEMORY_GB, f"{total:.1f} GB; the demo needs {MIN_MEMORY_GB} GB")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backends() -> Iterator[Check]:
    if _version("torch") is None:
        return
    from get3d_model.rendering.select import rasterizer_backends

    for backend in rasterizer_backends():
        required = backend.name == "cpu"
        yield Check(f"rasterizer {backend.name}", backend.available, backend.reason, required)


def _blender() -> Check:
    from components.render.blender.install import find_blender

    purpose = "photo-realistic data sets: `get3d render --backend blender`"
    try:
        found = find_blender()
    except InputError as error:
        return Check("blender", False, f"{purpose}; {error}", required=False)
    return Check("blender", True, f"{found.version}, {found.where} ({purpose})", required=False)


def _triton() -> Check:
    from serving.server import find_triton

    try:
        return Check("triton server", True, f"{find_triton().binary}")
    except InputError as error:
        return Check("triton server", False, str(error))
