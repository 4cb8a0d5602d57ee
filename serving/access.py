"""Who may call the bundled server: TLS and shared tokens, as Triton's options.

Triton compares a header of every call with what its restricted protocols were given, before the model sees the call.
Two groups of calls have a token each: sampling, and control (loading models, shared memory, tracing, logging), which
can run code on the server and is therefore never open on an address that other machines reach; nor is sampling over
HTTP, which can end it. Health stays open for probes. Triton takes tokens on its command line only, where users of the
same machine can read them.
"""

from __future__ import annotations

import argparse
import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from get3d_model.errors import InputError
from serving.connection import TOKEN_HEADER, Connection, Tls, bearer, check_pem, read_token

SAMPLING = "inference,metadata,statistics"
CONTROL = "model-repository,model-config,shared-memory,trace,logging"


@dataclass(frozen=True)
class ServerAccess:
    """tls_cert, tls_key: PEM of the server; both or none. tls_client_ca: callers need a certificate of this authority.

    token: of all calls; None: sampling is open to whoever reaches the port, over HTTP on the loopback address only.
    control_token: of control calls; None: `token`, or where there is none either, control is open on the loopback
    address and closed on all others.
    Raises InputError for files that are missing or do not go together.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token: str | None = field(default=None, repr=False)
    control_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--tls-cert and --tls-key belong together; give both")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InputError("--tls-client-ca needs --tls-cert and --tls-key")
        for path in (self.tls_cert, self.tls_key, self.tls_client_ca):
            if path is not None:
                check_pem(path)

    def options(self, host: str) -> list[str]:
        """Triton's options, for a server that listens on `host`."""
        options = []
        if self.tls_cert is not None:
            kind = "ssl" if self.tls_client_ca is None else "ssl-mutual"
            options += [
                f"--grpc-use-{kind}=true",
                f"--grpc-server-cert={self.tls_cert}",
                f"--grpc-server-key={self.tls_key}",
            ]
        if self.tls_client_ca is not None:
            options.append(f"--grpc-root-cert={self.tls_client_ca}")
        control = self.control_token or self.token
        if control is None and not is_loopback(host):
            control = secrets.token_hex(32)  # known to nobody
        for group, token in ((SAMPLING, self.token), (CONTROL, control)):
            if token is not None:
                options += [
                    f"--grpc-restricted-protocol={group}:{TOKEN_HEADER}={bearer(token)}",
                    f"--http-restricted-api={group}:{TOKEN_HEADER}={bearer(token)}",
                ]
        if self.token is None and not is_loopback(host):
            # Triton's HTTP end believes whatever shape a body claims, and ends when it is too large to be had.
            closed = bearer(secrets.token_hex(32))
            options.append(f"--http-restricted-api=inference:{TOKEN_HEADER}={closed}")
        return options

    def http_host(self, host: str) -> str:
        """Where HTTP listens: Triton cannot encrypt it, so beside TLS it stays on this machine."""
        return host if self.tls_cert is None else "127.0.0.1"

    def connection(self, url: str, ca: Path | None = None) -> Connection:
        """How a client on this machine samples. ca: the authority of the server's certificate."""
        return Connection(url, None if self.tls_cert is None else Tls(ca=ca), self.token)


OPEN = ServerAccess()


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--token-file", type=Path, help="file with a token that every call has to bring; none: open"
    )
    parser.add_argument(
        "--control-token-file", type=Path, help="another token for loading models; none: that of --token-file"
    )
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate of this server: gRPC is encrypted")
    parser.add_argument("--tls-key", type=Path, help="its private key")
    parser.add_argument("--tls-client-ca", type=Path, help="clients need a certificate of this authority")


def access_from(args: argparse.Namespace) -> ServerAccess:
    """Raises InputError."""
    token, control = (
        read_token(path) if path else None for path in (args.token_file, args.control_token_file)
    )
    return ServerAccess(args.tls_cert, args.tls_key, args.tls_client_ca, token, control)
