"""Sample: textured meshes from a running server, over gRPC. Needs no torch."""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from components.sample.requests import NamedRequest, requests_from
from components.sample.requests import add_arguments as add_request_arguments
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic, write_json_atomic
from serving.client import Get3DClient, ServiceError
from serving.codec import FORMAT_SUFFIX, SampleResponse
from serving.connection import add_connection_arguments, check_timeout, connection_from

SAMPLES_FILE = "samples.json"


def sample_to_folder(
    client: Get3DClient, requests: list[NamedRequest], out: Path, concurrency: int
) -> list[dict[str, Any]]:
    """Writes the files of every request as they come and, when all are there, `samples.json`; returns what that holds.

    Files of samples that came before a failure stay. Raises InputError and ServiceError.
    """
    samples: list[dict[str, Any] | None] = [None] * len(requests)
    responses = client.sample_as_completed((named.request for named in requests), concurrency)
    # disable=None: no bar where stderr is not a terminal.
    for place, response in tqdm(responses, total=len(requests), desc="sampling", unit="mesh", disable=None):
        names = write_response(response, out, requests[place].stem)
        samples[place] = {**names, **asdict(response.metadata)}
    write_json_atomic(out / SAMPLES_FILE, samples)
    return samples


def write_response(response: SampleResponse, out: Path, stem: str) -> dict[str, Any]:
    """Writes what came; returns the names: file, previews, latents."""
    names: dict[str, Any] = {}
    if response.mesh:
        names["file"] = stem + FORMAT_SUFFIX[response.metadata.file_format]
        write_bytes_atomic(out / names["file"], response.mesh)
    for frame, png in enumerate(response.previews):
        name = f"{stem}.png" if len(response.previews) == 1 else f"{stem}_{frame:03d}.png"
        write_bytes_atomic(out / name, png)
        names.setdefault("previews", []).append(name)
    if response.latent_geo is not None and response.latent_tex is not None:
        buffer = io.BytesIO()
        np.savez(buffer, w_geo=response.latent_geo[None], w_tex=response.latent_tex[None])
        names["latents"] = f"{stem}.npz"
        write_bytes_atomic(out / names["latents"], buffer.getvalue())
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the meshes and samples.json")
    add_connection_arguments(parser)
    parser.add_argument("--concurrency", type=int, default=4, help="requests under way at a time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one mesh may take")
    add_request_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Raises InputError, also for a server that is not reachable; exits with 1 when the server fails."""
    requests = requests_from(args)
    if args.concurrency < 1:
        raise InputError(f"--concurrency must be at least 1, not {args.concurrency}")
    check_timeout("--timeout", args.timeout)
    with Get3DClient(connection_from(args), timeout_s=args.timeout) as client:
        client.wait_until_ready()
        try:
            samples = sample_to_folder(client, requests, args.out, args.concurrency)
        except ServiceError as error:
            # The server's failure, not a bug of this process: a traceback would say nothing.
            raise SystemExit(f"get3d sample: {error}") from None
    empty = [named.stem for named, sample in zip(requests, samples, strict=True) if sample["empty"]]
    if empty:
        print(f"no surface, so a stand-in shape: {', '.join(empty)}", file=sys.stderr)
    print(f"{len(samples)} samples in {args.out}, described in {args.out / SAMPLES_FILE}")


main = command_main("get3d sample", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
