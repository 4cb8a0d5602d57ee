"""Real servers for DVC remotes on this machine: OpenSSH with keys of its own, and S3."""

from __future__ import annotations

import getpass
import logging
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def no_http() -> Iterator[str]:
    """HOST:PORT of a server that greets every client as an SSH server does."""

    class Greeting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            self.request.sendall(b"SSH-2.0-Other\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@dataclass(frozen=True)
class Server:
    """url: for `dvc remote add`. secrets: DVC settings of the remote "store" that are not committed."""

    url: str
    settings: dict[str, str]
    secrets: str


@contextmanager
def ssh_server(folder: Path) -> Iterator[Server]:
    """OpenSSH's sshd with sftp, throw-away keys and a free port. Skips where it is not installed."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd; install openssh-server")
    folder.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=60
        )
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    log = folder / "log"
    server = subprocess.Popen([sshd, "-D", "-f", str(folder / "config"), "-E", str(log)])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield Server(
            f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder / 'store'}",
            {},
            f"['remote \"store\"']\n    keyfile = {folder / 'user'}\n",
        )
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def moto_server() -> Iterator[Server]:
    """An S3 server that keeps its objects in memory; the client speaks real HTTP and signs its requests."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        with pytest.MonkeyPatch.context() as patch:
            # A proxy of the machine must not get between.
            patch.setenv("NO_PROXY", "127.0.0.1")
            client = boto3.client(
                "s3",
                endpoint_url=url,
                region_name="us-east-1",
                aws_access_key_id="key",
                aws_secret_access_key="word",
            )
            client.create_bucket(Bucket="versions")
            yield s3_remote(url, "versions", "key", "word")
    finally:
        server.stop()


def s3_remote(endpoint: str, bucket: str, key: str, word: str) -> Server:
    return Server(
        f"s3://{bucket}/store",
        {"endpointurl": endpoint},
        f"['remote \"store\"']\n    access_key_id = {key}\n    secret_access_key = {word}\n",
    )
