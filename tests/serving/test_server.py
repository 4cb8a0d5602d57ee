"""Starting, stopping and dying of the real server."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.sample import main as sample
from get3d_model.errors import InputError
from serving import probe
from serving.client import Get3DClient, ServiceError
from serving.server import Ports, ServerError, TritonServer, main

FREE_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def complaint(server: TritonServer) -> str:
    """What `check` finds wrong; empty when nothing."""
    try:
        server.check()
    except ServerError as error:
        return str(error)
    return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shared_memory(pid: int) -> set[Path]:
    """Regions that a server maps; other servers of the machine have theirs."""
    return {
        Path(name) for name in re.findall(r"/dev/shm/get3d-triton-\S+", Path(f"/proc/{pid}/maps").read_text())
    }


def start_serve(repository: Path, temporary: Path) -> tuple[subprocess.Popen[str], str]:
    """`get3d serve` as a process of its own, and its gRPC endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.server", "--repository", str(repository), *FREE_PORTS],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    output = ""
    for line in process.stdout:
        output += line
        if match := re.search(r"READY +grpc (\S+)", line):
            return process, match[1]
    raise AssertionError(f"the server did not get ready: {output}")


def test_serve_and_sample(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two commands, as a user gives them; SIGTERM ends the server in order."""
    process, url = start_serve(repository, tmp_path)
    try:
        (triton,) = children(process.pid)
        regions = shared_memory(triton)
        assert regions and all(region.exists() for region in regions)
        stubs = children(triton)
        arguments = ["--url", url, "--out", str(tmp_path / "out"), "--seed", "3", "--count", "2"]
        assert sample.main([*arguments, "--texture-resolution", "64"]) == 0
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "samples.json", "seed0003.glb", "seed0004.glb",
        ]  # fmt: skip
        assert probe.main(["--url", url]) == 0
        assert "alive" in capsys.readouterr().out
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert process.stdout.read().endswith("stopped\n")
    assert stubs and not any(alive(pid) for pid in [triton, *stubs])
    assert not any(region.exists() for region in regions)
    assert not list(tmp_path.glob("get3d-triton-*"))


def test_it_dies_with_its_parent(repository: Path, tmp_path: Path) -> None:
    process, _ = start_serve(repository, tmp_path)
    (triton,) = children(process.pid)
    stubs = children(triton)
    process.kill()
    process.wait(5)
    assert until(lambda: not alive(triton)), "the server outlived its parent"
    assert until(lambda: not any(alive(pid) for pid in stubs)), "a model process outlived its server"


def test_death_is_noticed(repository: Path) -> None:
    with TritonServer(repository) as server:
        server.check()
        (stub,) = children(server.pid)
        os.kill(stub, signal.SIGKILL)
        assert until(lambda: not alive(stub))
        with pytest.raises(ServerError, match="a model process of the Triton server has died"):
            server.check()
        with Get3DClient(server.grpc_url) as client:
            # Why liveness needs a real inference: Triton goes on calling the model ready.
            assert client.is_ready()
            with pytest.raises(ServiceError):
                client.check_alive(5.0)
        assert probe.main(["--url", server.grpc_url, "--timeout", "2"]) == 1
        os.kill(server.pid, signal.SIGKILL)
        # Its threads end one after the other: it can be gone from sight and not be waited for yet.
        assert until(lambda: not alive(server.pid) and complaint(server).startswith("the Triton server"))
        with pytest.raises(ServerError, match=r"has stopped \(signal SIGKILL\)"):
            server.check()
        folder = server.log.parent
    assert not folder.exists()


def altered(repository: Path, folder: Path) -> Path:
    """A copy whose weights have one bit flipped."""
    shutil.copytree(repository, folder)
    weights = folder / "get3d" / "1" / "generator_ema.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return folder


def test_altered_weights_are_refused(repository: Path, tmp_path: Path) -> None:
    copy = altered(repository, tmp_path / "copy")
    with pytest.raises(InputError, match=r"generator_ema\.safetensors: .*changed after"), TritonServer(copy):
        pass


def test_a_model_that_cannot_load(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model checks its weights too, for servers that we do not start; the reason is out of the log."""
    copy = altered(repository, tmp_path / "copy")
    monkeypatch.setattr("serving.server.check_repository", lambda folder: None)
    with (
        pytest.raises(ServerError, match=r"(?s)did not start.*the weights are not those"),
        TritonServer(copy),
    ):
        pass


def test_a_bad_configuration_is_shown(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    (copy / "get3d" / "config.pbtxt").write_text("nonsense { ")
    with (
        pytest.raises(ServerError, match=r"(?s)did not start \(exit code 1\).*config\.pbtxt"),
        TritonServer(copy),
    ):
        pass


def test_ports_in_use_are_named(repository: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with (
            pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--http-port"),
            TritonServer(repository, Ports(http=port)),
        ):
            pass


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("127.0.0.1", 70000), ("no such host", 0)])
def test_bad_addresses_are_named(repository: Path, host: str, port: int) -> None:
    with (
        pytest.raises(InputError, match="cannot listen on"),
        TritonServer(repository, Ports(grpc=port), host),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--drain-timeout", "nan"], "--drain-timeout must be 0 to 86400 seconds, not nan"),
        (["--drain-timeout", "inf"], "--drain-timeout must be 0 to 86400 seconds, not inf"),
        (["--timeout", "-1"], "--timeout must be above 0"),
        (["--grpc-port", "18555", "--http-port", "18555"], "have to differ"),
        (["--log", "."], "--log .: cannot be written (Is a directory)"),
    ],
)
def test_bad_options_are_named(
    repository: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    assert main(["--repository", str(repository), *ports, *arguments]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("get3d serve: ")]
    assert len(told) == 1 and expected in told[0]


def test_missing_repositories_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repository", str(tmp_path / "nowhere")]) == 2
    assert "no such model repository; make one with: get3d export" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no get3d model"), TritonServer(tmp_path):
        pass


def test_a_missing_wheel_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pytriton" else find(name))
    with pytest.raises(InputError, match="pip install nvidia-pytriton"), TritonServer(repository):
        pass


def test_a_slow_model_is_given_up(repository: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"not ready after 0\.01 s"),
        TritonServer(repository, start_timeout_s=0.01),
    ):
        pass
