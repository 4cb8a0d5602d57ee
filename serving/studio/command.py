"""`get3d studio`: opens the studio in front of a running Triton server."""

from __future__ import annotations

import argparse
import signal
import sys

from get3d_model.entry_point import command_main
from serving.client import Get3DClient
from serving.connection import ServiceError, add_connection_arguments, check_timeout, connection_from
from serving.studio.server import StudioServer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_connection_arguments(parser)
    parser.add_argument("--port", type=int, default=8080, help="of the page; 0: any free one")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets everybody sample who reaches this machine",
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that one mesh may take")


def run(args: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C or SIGTERM.

    Raises InputError, also for a server that is not reachable or refuses us; exits with 1 when the server fails.
    """
    check_timeout("--timeout", args.timeout)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Get3DClient(connection_from(args), timeout_s=args.timeout) as client:
            client.wait_until_ready()
            # A server that only says that it is ready may refuse the token, or be unable to answer.
            client.check_alive(args.timeout)
            with StudioServer(client, args.host, args.port) as server:
                print(f"the studio is at {server.url}   (Ctrl-C stops it)", flush=True)
                server.serve_forever()
    except ServiceError as error:
        # The server's failure, not a bug of this process: a traceback would say nothing.
        raise SystemExit(f"get3d studio: {error}") from None
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


main = command_main("get3d studio", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
