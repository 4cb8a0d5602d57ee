"""Liveness probe: `python -m serving.health --url localhost:8001` makes a real inference; exits 0 or 1."""

from __future__ import annotations

import argparse
import sys

from get3d_model.errors import InputError
from serving.client import Get3DClient, ServiceError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:8001", help="gRPC endpoint")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that the answer may take")
    args = parser.parse_args(argv)
    try:
        with Get3DClient(args.url) as client:
            seconds = client.check_alive(args.timeout)
    except (InputError, ServiceError) as error:
        print(f"not alive: {error}", file=sys.stderr)
        return 1
    print(f"alive: a mesh in {seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
