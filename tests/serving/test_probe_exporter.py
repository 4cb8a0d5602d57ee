"""`get3d probe --every`: what Prometheus reads of a live and of a dead model; the real server."""

from __future__ import annotations

import re
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


def test_arguments(tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    probe.add_arguments(parser)
    with pytest.raises(InputError, match="--every must be above 0 and at most 86400 seconds"):
        probe.run(parser.parse_args(["--url", "127.0.0.1:1", "--every", "0"]))
