"""Deploy: rolls a version that `get3d export` wrote out to running servers, or rolls back to the one before.

The version is uploaded beside the served ones, tested on every replica by a real inference that is compared with the
export's reference sample, and only then answers clients. A version that fails never does: exit 2, and what was served
is served on. OUT/deploy.json says what happened. Killed at any point and started again, it finishes.
"""

from __future__ import annotations

import argparse
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

from components.deploy.rollout import ASKED_FOR, ROLLED_BACK, Report, Rollout, read_export
from components.deploy.served import ServedRepository
from components.deploy.store import FolderStore, open_store
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic
from serving import environment
from serving.connection import (
    Connection,
    add_connection_arguments,
    check_timeout,
    connection_from,
    token_from,
)
from serving.replica import Replica
from serving.repository import read_model_card

REPORT_FILE = "deploy.json"
DEFAULT_TIMEOUT_S = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repository", type=Path, help="what get3d export has written")
    parser.add_argument("--version", type=int, help="version of --repository; none: the newest")
    parser.add_argument(
        "--target", required=True, help="repository that the servers read: a folder, or s3://bucket/folder"
    )
    parser.add_argument(
        "--url", required=True, help="gRPC endpoints of all replicas, host:port with commas between"
    )
    parser.add_argument(
        "--resolve", action="store_true", help="every address that a host name has is a replica"
    )
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {REPORT_FILE}")
    parser.add_argument(
        "--keep", type=int, default=2, help="versions that stay loaded for a roll-back, with the new"
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        help="seconds that one step on one replica may take",
    )
    parser.add_argument(
        "--rollback", action="store_true", help="back to the version before; needs no --repository"
    )
    add_connection_arguments(parser, url=False)
    parser.add_argument(
        "--control-token-file",
        type=Path,
        help=f"token for loading models; none: the environment's {environment.CONTROL_TOKEN}, or the server's token",
    )


def run(args: argparse.Namespace) -> None:
    """Raises InputError, after writing the report, when the version was rolled back or refused."""
    if args.keep < 1:
        raise InputError(f"--keep must be at least 1, not {args.keep}")
    check_timeout("--timeout-s", args.timeout_s)
    if (args.repository is None) != args.rollback:
        raise InputError("give either --repository, what to deploy, or --rollback")
    if args.rollback and args.version is not None:
        raise InputError("--rollback goes to the version before; --version is for --repository")
    store = open_store(args.target)
    target = store.root.resolve() if isinstance(store, FolderStore) else None
    if args.repository is not None and target == args.repository.resolve():
        raise InputError("--target is --repository; the servers read a repository of their own")
    served = ServedRepository(store)
    with ExitStack() as stack:
        replicas = [stack.enter_context(replica) for replica in _replicas(args)]
        try:
            # Before the lock, and before anything is touched.
            export = None if args.rollback else read_export(args.repository, args.version)
            if export is None and not served.snapshot().served:
                raise InputError(f"{store.location}: serves nothing yet; deploy one")
            stack.enter_context(store.lock())
            rollout = Rollout(served, replicas, args.keep, lambda text: print(text, flush=True))
            report = rollout.roll_back() if export is None else rollout.deploy(export)
        except (InputError, OSError) as error:
            current = None if args.rollback else _current(served)
            write_json_atomic(
                args.out / REPORT_FILE, Report(ROLLED_BACK, current, current, str(error)).to_json()
            )
            raise
    if export is not None:
        report.checkpoint_sha256 = read_model_card(export.folder).checkpoint_sha256
    write_json_atomic(args.out / REPORT_FILE, report.to_json())
    if report.reason not in (None, ASKED_FOR):
        prefix = "rolled back: " if report.outcome == ROLLED_BACK and not args.rollback else ""
        answer = "nothing is served" if report.version is None else f"version {report.version} is served"
        raise InputError(f"{prefix}{report.reason}; {answer}")
    print(f"version {report.version} is served (before: {report.previous_version}); {args.out / REPORT_FILE}")


def _current(served: ServedRepository) -> int | None:
    try:
        return served.snapshot().current
    except (InputError, OSError):
        return None


def _replicas(args: argparse.Namespace) -> list[Replica]:
    """Raises InputError."""
    control_token = token_from(args.control_token_file, environment.CONTROL_TOKEN)
    replicas = []
    for url in endpoints(args.url, args.resolve):
        connection = connection_from(args, url)
        control = Connection(url, connection.tls, control_token or connection.token)
        replicas.append(Replica(connection, control, args.timeout_s))
    return replicas


def endpoints(text: str, resolve: bool) -> list[str]:
    """The gRPC endpoints in a list with commas, each once; with `resolve` all addresses of each name. Raises InputError."""
    urls = [url for url in (part.strip() for part in text.split(",")) if url]
    if resolve:
        urls = [address for url in urls for address in _addresses(url)]
    if not urls:
        raise InputError(f"--url {text!r} names no replica")
    return list(dict.fromkeys(urls))


def _addresses(url: str) -> list[str]:
    host, _, port = Connection(url).url.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"{host}: has no address ({error}); check --url") from None
    return sorted(
        f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"
        for family, *_, address in found
    )


main = command_main("get3d deploy", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
