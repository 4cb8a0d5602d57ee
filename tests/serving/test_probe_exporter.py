"""`get3d probe --every`: what Prometheus reads of a live and of a dead model; the real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from get3d_model.errors import InputError
from serving import probe
from serving.client import Get3DClient
from serving.server import TritonServer


def scrape(out: str) -> dict[str, float]:
    url = re.search(r"metrics: (\S+)", out)[1]
    text = urllib.request.urlopen(url, timeout=5).read().decode()
    return {m[1]: float(m[2]) for m in re.finditer(r'^get3d_probe_(\w+)\{model="get3d"\} (\S+)$', text, re.M)}


def probed(
    client: Get3DClient, capsys: pytest.CaptureFixture[str], rounds: int
) -> tuple[dict[str, float], str]:
    """What an exporter shows after so many probes, and what was printed."""
    done, leave = threading.Event(), threading.Event()
    left = [rounds]

    def going() -> bool:
        left[0] -= 1
        if left[0] < 0:
            done.set()
            leave.wait(20)
            return False
        return True

    thread = threading.Thread(
        target=probe.watch, args=(client, "get3d", 0.01, 5.0, 0, "127.0.0.1", going), daemon=True
    )
    thread.start()
    assert done.wait(30)
    out = capsys.readouterr().out
    samples = scrape(out)
    leave.set()
    thread.join(10)
    return samples, out


def test_a_live_model_and_one_that_is_away(
    server: TritonServer, client: Get3DClient, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, out = probed(client, capsys, 3)
    assert (samples["success"], samples["total"], samples["rejected_total"]) == (1, 3, 0)
    assert samples["duration_seconds"] > 0 and out.count("alive: a mesh in") == 1, "only changes are told"
    with Get3DClient("127.0.0.1:1", timeout_s=1.0) as nobody:
        samples, out = probed(nobody, capsys, 1)
    assert samples["success"] == 0 and "not alive: " in out


def test_a_server_that_waits_for_its_first_model_is_alive_where_that_is_said(tmp_path: Path) -> None:
    """Its log, away from a terminal, says when."""
    with TritonServer(tmp_path, may_be_empty=True) as server:
        command = [sys.executable, "-m", "pipelines.cli", "probe", "--url", server.grpc_url, "--every", "60"]
        for more, said in (
            (["--wait-for-deploy"], "alive, and waiting for its first deployment"),
            ([], "not alive: "),
        ):
            process = subprocess.Popen(
                [*command, "--metrics-port", "0", *more],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "GET3D_LOG_FORMAT": "auto"},
            )
            try:
                records = [json.loads(process.stdout.readline()) for _ in range(2)]
            finally:
                process.kill()
                process.communicate()
            assert [record["command"] for record in records] == ["probe", "probe"]
            assert records[0]["message"].startswith("probing ") and records[1]["message"].startswith(said)


def test_arguments(tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    probe.add_arguments(parser)
    with pytest.raises(InputError, match="--every must be above 0 and at most 86400 seconds"):
        probe.run(parser.parse_args(["--url", "127.0.0.1:1", "--every", "0"]))
