"""A real S3 service on this machine: Ceph's object gateway over a cluster of one monitor and one disk in memory.

From Debian: apt-get install --no-install-recommends ceph-mon ceph-osd ceph-common radosgw
"""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.components.remote_servers import Server, free_port, s3_remote

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
SECONDS = 120
CONFIG = """
[global]
fsid = {fsid}
mon host = {monitor}
keyring = {folder}/keyring
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = {folder}
admin socket = {folder}/$name.$pid.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
mon data = {folder}/mon
osd data = {folder}/osd
public addr = 127.0.0.1
cluster addr = 127.0.0.1
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 268435456
osd class load list = *
osd class default list = *
mon max pg per osd = 1000
crush location = root=default host=local
[osd]
keyring = {folder}/osd/keyring
[client.admin]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
rgw run sync thread = false
"""


@contextmanager
def ceph_server(folder: Path) -> Iterator[Server]:
    """Starts it in `folder` with a user and a bucket; takes a quarter of a minute. Skips where it is not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}; install ceph-mon, ceph-osd, ceph-common and radosgw")
    folder.mkdir(parents=True)
    monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
    fsid, disk, port = str(uuid.uuid4()), str(uuid.uuid4()), free_port()
    (folder / "ceph.conf").write_text(
        CONFIG.format(fsid=fsid, monitor=monitor, folder=folder, port=port).lstrip()
    )
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    running: list[subprocess.Popen[bytes]] = []

    def call(*words: str) -> str:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
        return done.stdout

    def ceph(*words: str) -> str:
        return call("ceph", "--conf", "ceph.conf", *words)

    def start(*words: str) -> None:
        with open(folder / f"{words[0]}.out", "wb") as log:
            running.append(
                subprocess.Popen(
                    [words[0], "--conf", "ceph.conf", "-f", *words[1:]], cwd=folder, stdout=log, stderr=log
                )
            )

    try:
        key = ("ceph-authtool", "keyring", "--gen-key")
        call(*key, "--create-keyring", "-n", "mon.", "--cap", "mon", "allow *")
        call(*key, "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *")
        call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, "monmap")
        make = ("ceph-mon", "--conf", "ceph.conf", "--mkfs", "-i", "a")
        call(*make, "--monmap", "monmap", "--keyring", "keyring")
        start("ceph-mon", "-i", "a")
        ceph("osd", "new", disk)
        secret = ceph("auth", "get-or-create", "osd.0", "mon", "allow profile osd", "osd", "allow *")
        (folder / "osd" / "keyring").write_text(secret)
        call("ceph-osd", "--conf", "ceph.conf", "-i", "0", "--mkfs", "--osd-uuid", disk)
        start("ceph-osd", "-i", "0")
        start("radosgw", "-n", "client.admin")
        user = ("user", "create", "--uid=tests", "--display-name=tests")
        call("radosgw-admin", "--conf", "ceph.conf", *user, "--access-key=key", "--secret-key=word")
        url = f"http://127.0.0.1:{port}"
        _make_bucket(url, running)
        yield s3_remote(url, "versions", "key", "word")
    finally:
        for process in reversed(running):
            process.kill()
            process.wait(30)


def _make_bucket(url: str, running: list[subprocess.Popen[bytes]]) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="word",
    )
    end = time.monotonic() + SECONDS
    while True:
        try:
            client.create_bucket(Bucket="versions")
            return
        except (BotoCoreError, ClientError):
            assert all(process.poll() is None for process in running), "a server of the cluster ended"
            assert time.monotonic() < end, "the object gateway does not answer"
            time.sleep(0.5)
