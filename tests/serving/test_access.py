"""TLS and tokens, against the real server: who gets in, and who does not. The model is a stand-in that loads quickly."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from components.deploy.main import main as deploy
from components.sample.main import main as sample
from get3d_model.errors import InputError
from serving import probe
from serving.access import CONTROL as CONTROL_CALLS
from serving.access import ServerAccess, is_loopback
from serving.client import Connection, Get3DClient, ServiceError, Tls
from serving.connection import GRPC_TOKEN_HEADER, read_token
from serving.server import TritonServer
from serving.server import main as serve
from tests.components.deploy_helpers import REQUEST, box, write_export
from tests.serving.certificates import Certificates, write_certificates

TOKEN, CONTROL = "user-0123456789abcdef", "control-0123456789=="


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(f"{TOKEN}\n")
    (path.parent / "control").write_text(CONTROL)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[TritonServer]:
    access = ServerAccess(
        certificates.server_cert, certificates.server_key, token=TOKEN, control_token=CONTROL
    )
    repository = write_export(tmp_path_factory.mktemp("repository"), 1)
    with TritonServer(repository, access=access) as running:
        yield running


@pytest.fixture
def tls(certificates: Certificates) -> Tls:
    return Tls(certificates.ca)


def test_with_the_token(server: TritonServer, tls: Tls) -> None:
    with Get3DClient(server.grpc_url, timeout_s=10.0, tls=tls, token=TOKEN) as client:
        client.wait_until_ready()
        assert client.sample(REQUEST).mesh == box(1)
        assert TOKEN not in repr(client.connection)
    with Get3DClient(server.access.connection(server.grpc_url, tls.ca)) as client:
        assert client.sample(REQUEST).mesh == box(1)


@pytest.mark.parametrize("token", [None, "user-0123456789abcdeg", CONTROL, TOKEN[:-1]])
def test_without_the_token(server: TritonServer, tls: Tls, token: str | None) -> None:
    """Refused by the server, at once: it is not asked again until the deadline."""
    with (
        Get3DClient(server.grpc_url, timeout_s=30.0, tls=tls, token=token) as client,
        pytest.raises(InputError, match=r"refuses calls without its token; .*--token-file"),
    ):
        client.sample(REQUEST)


@pytest.mark.parametrize("wrong", ["no TLS", "another authority", "another name"])
def test_other_ways_to_connect(server: TritonServer, certificates: Certificates, wrong: str) -> None:
    options = {
        "no TLS": None,
        "another authority": Tls(certificates.other_ca),
        "another name": Tls(certificates.ca, server_name="example.org"),
    }[wrong]
    with Get3DClient(server.grpc_url, timeout_s=1.0, tls=options, token=TOKEN) as client:
        assert not client.is_ready()
        with pytest.raises((InputError, ServiceError)) as caught:
            client.sample(REQUEST)
    if wrong == "another authority":
        assert "certificate that is trusted" in str(caught.value)


def test_a_name_of_the_certificate_may_be_given(server: TritonServer, certificates: Certificates) -> None:
    tls = Tls(certificates.ca, server_name="localhost")
    with Get3DClient(server.grpc_url, tls=tls, token=TOKEN) as client:
        assert client.sample(REQUEST).mesh == box(1)


def control_calls(stub: triton.InferenceServerClient, headers: dict[str, str]) -> dict[str, str]:
    """What becomes of the calls that can change or spy on the server; "" where they are allowed."""
    calls = {
        "load": lambda: stub.load_model("get3d", headers=headers),
        "load files": lambda: stub.load_model(
            "evil", headers=headers, config="{}", files={"file:1/model.py": b""}
        ),
        "unload": lambda: stub.unload_model("nothing", headers=headers),
        "index": lambda: stub.get_model_repository_index(headers=headers),
        "config": lambda: stub.get_model_config("get3d", headers=headers),
        "shared memory": lambda: stub.get_system_shared_memory_status(headers=headers),
        "trace": lambda: stub.get_trace_settings(headers=headers),
        "log": lambda: stub.get_log_settings(headers=headers),
    }
    outcomes = {}
    for name, call in calls.items():
        try:
            call()
            outcomes[name] = ""
        except InferenceServerException as error:
            outcomes[name] = str(error)
    return outcomes


def test_control_has_a_token_of_its_own(server: TritonServer, tls: Tls) -> None:
    stub = triton.InferenceServerClient(**Connection(server.grpc_url, tls).client_options())
    for token in ("", f"Bearer {TOKEN}"):
        outcomes = control_calls(stub, {GRPC_TOKEN_HEADER: token} if token else {})
        assert all("protocol is restricted" in outcome for outcome in outcomes.values()), outcomes
    allowed = control_calls(stub, {GRPC_TOKEN_HEADER: f"Bearer {CONTROL}"})
    assert not any("restricted" in outcome for outcome in allowed.values()) and allowed["index"] == ""


def test_http_beside_tls_stays_on_this_machine_and_asks_for_the_token(server: TritonServer) -> None:
    assert server.http_url.startswith("127.0.0.1:")
    for path, headers, expected in (
        ("v2/health/live", {}, 200),
        ("v2/models/get3d/ready", {}, 200),
        ("v2/models/get3d", {}, 403),
        ("v2/models/get3d", {"Authorization": f"Bearer {TOKEN}"}, 200),
        ("v2/models/get3d/config", {"Authorization": f"Bearer {TOKEN}"}, 403),
        ("v2/models/get3d/config", {"Authorization": f"Bearer {CONTROL}"}, 200),
    ):
        request = urllib.request.Request(f"http://{server.http_url}/{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                status = response.status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status == expected, (path, headers)


def test_a_body_that_claims_too_much_is_refused_before_it_is_read(server: TritonServer, tls: Tls) -> None:
    """Triton would end: it makes room for what the shape of a JSON body claims."""
    lie = {"inputs": [{"name": "seed", "datatype": "INT64", "shape": [1, 1 << 40], "data": [3]}]}
    url = f"http://{server.http_url}/v2/models/get3d/infer"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(lie).encode()), timeout=5)
    assert caught.value.code == 403
    with Get3DClient(server.grpc_url, timeout_s=10.0, tls=tls, token=TOKEN) as client:
        assert client.check_alive() > 0


def test_the_commands_take_the_same_options(
    server: TritonServer,
    certificates: Certificates,
    token_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secure = ["--url", server.grpc_url, "--tls-ca", str(certificates.ca), "--token-file", str(token_file)]
    assert sample([*secure, "--out", str(tmp_path), "--count", "2"]) == 0
    assert (tmp_path / "seed0001.glb").read_bytes() == box(1)
    assert sample([*secure[:4], "--out", str(tmp_path / "no")]) == 2
    assert probe.main(secure) == 0 and probe.main([*secure[:4], "--readiness"]) == 0
    assert probe.main([*secure[:4], "--timeout", "2"]) == 1
    assert "not alive: " in capsys.readouterr().err
    export = write_export(tmp_path / "export", 2)
    # The server under test reads a repository of its own, so that only the calls' rights matter here.
    arguments = [*secure, "--repository", str(export), "--target", str(tmp_path / "t"), "--timeout-s", "5"]
    assert deploy([*arguments, "--out", str(tmp_path / "d")]) == 2
    assert "refuses calls without its token" in capsys.readouterr().err
    control = ["--control-token-file", str(token_file.parent / "control")]
    assert deploy([*arguments, *control, "--out", str(tmp_path / "d")]) == 2
    assert "get3d_candidate" in capsys.readouterr().err, "the calls were allowed, the model is not there"


def test_client_certificates(certificates: Certificates, tmp_path: Path) -> None:
    access = ServerAccess(certificates.server_cert, certificates.server_key, certificates.ca)
    with TritonServer(write_export(tmp_path, 1), access=access) as server:
        own = Tls(certificates.ca, certificates.client_cert, certificates.client_key)
        with Get3DClient(server.grpc_url, tls=own) as client:
            assert client.sample(REQUEST).mesh == box(1)
        with (
            Get3DClient(server.grpc_url, timeout_s=0.5, tls=Tls(certificates.ca)) as client,
            pytest.raises(ServiceError, match="not reachable"),
        ):
            client.sample(REQUEST)


def test_an_open_server_is_open_on_this_machine_only() -> None:
    """What reaches other machines without a token has control, and sampling over HTTP, locked by secrets nobody has."""
    assert ServerAccess().options("127.0.0.1") == ServerAccess().options("localhost") == []
    first, second = (ServerAccess().options("0.0.0.0") for _ in range(2))
    assert [option.split(":")[0] for option in first] == [
        f"--grpc-restricted-protocol={CONTROL_CALLS}",
        f"--http-restricted-api={CONTROL_CALLS}",
        "--http-restricted-api=inference",
    ]
    assert not set(first) & set(second)
    assert len(ServerAccess(token=TOKEN).options("0.0.0.0")) == 4, "the token opens HTTP"
    assert is_loopback("::1") and not is_loopback("example.org")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot read the token"),
        ("short", "at least 16"),
        ("with spaces in it, it is no header", "nothing else"),
    ],
)
def test_bad_tokens_are_named(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=expected):
        read_token(path)


def test_bad_files_are_named(
    certificates: Certificates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "der").write_bytes(b"\x30\x82")
    cert, key = str(certificates.server_cert), str(certificates.server_key)
    for arguments, expected in (
        (["--tls-cert", cert], "belong together"),
        (["--tls-client-ca", cert], "needs --tls-cert"),
        (["--tls-cert", str(tmp_path / "der"), "--tls-key", key], "is not a PEM file"),
        (["--tls-cert", str(tmp_path / "no"), "--tls-key", key], "cannot be read"),
    ):
        assert serve(["--repository", str(tmp_path), *arguments]) == 2
        message = capsys.readouterr().err
        assert expected in message and message.count("\n") == 1
    with pytest.raises(InputError, match="needs its key"):
        Tls(cert=certificates.client_cert)
