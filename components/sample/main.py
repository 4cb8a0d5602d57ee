"""Sample: textured meshes from a running server, over gRPC. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic, write_json_atomic
from get3d_model.limits import MAX_SEED
from serving.client import Get3DClient, ServiceError
from serving.codec import FORMAT_SUFFIX, SampleRequest, SampleResponse

SAMPLES_FILE = "samples.json"


def sample_to_folder(
    client: Get3DClient, requests: list[SampleRequest], out: Path, concurrency: int
) -> list[dict[str, Any]]:
    """Writes one file per request and, when all are there, `samples.json`; returns what that holds.

    Files of samples that came before a failure stay. Raises InputError and ServiceError.
    """
    samples = []
    responses = client.sample_many(requests, concurrency)
    # disable=None: no bar where stderr is not a terminal.
    for response in tqdm(responses, total=len(requests), desc="sampling", unit="mesh", disable=None):
        path = out / file_name(response)
        write_bytes_atomic(path, response.mesh)
        samples.append({"file": path.name, **asdict(response.metadata)})
    write_json_atomic(out / SAMPLES_FILE, samples)
    return samples


def file_name(response: SampleResponse) -> str:
    """seed0000.glb ..."""
    metadata = response.metadata
    return f"seed{metadata.seed:04d}{FORMAT_SUFFIX[metadata.file_format]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="localhost:8001", help="gRPC endpoint of the server")
    parser.add_argument("--out", type=Path, required=True, help="folder for the meshes and samples.json")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=4, help="number of meshes, one per seed from --seed on")
    parser.add_argument(
        "--truncation-psi", type=float, help="0 (average) to 1 (varied); none: the model's default"
    )
    parser.add_argument(
        "--texture-resolution", type=int, help="texels along a side; none: the model's default"
    )
    parser.add_argument("--format", choices=tuple(FORMAT_SUFFIX), help="none: the model's default, glb")
    parser.add_argument("--concurrency", type=int, default=4, help="requests under way at a time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one mesh may take")


def run(args: argparse.Namespace) -> None:
    """Raises InputError, also for a server that is not reachable; exits with 1 when the server fails."""
    if args.count < 1:
        raise InputError(f"--count must be at least 1, not {args.count}")
    if args.concurrency < 1:
        raise InputError(f"--concurrency must be at least 1, not {args.concurrency}")
    if args.seed + args.count - 1 > MAX_SEED:
        raise InputError(f"--seed {args.seed} with --count {args.count} passes the largest seed, {MAX_SEED}")
    requests = [
        SampleRequest(seed, args.truncation_psi, args.texture_resolution, args.format)
        for seed in range(args.seed, args.seed + args.count)
    ]
    with Get3DClient(args.url, timeout_s=args.timeout) as client:
        client.wait_until_ready()
        try:
            samples = sample_to_folder(client, requests, args.out, args.concurrency)
        except ServiceError as error:
            # The server's failure, not a bug of this process: a traceback would say nothing.
            raise SystemExit(f"get3d sample: {error}") from None
    empty = [sample["seed"] for sample in samples if sample["empty"]]
    if empty:
        print(f"no surface, so a stand-in shape, for seeds {', '.join(map(str, empty))}", file=sys.stderr)
    print(f"{len(samples)} meshes in {args.out}, described in {args.out / SAMPLES_FILE}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="get3d sample", description=__doc__)
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except InputError as error:
        print(f"get3d sample: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
