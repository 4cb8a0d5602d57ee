"""The deploy step against a real server as it runs in a cluster: behind a name, encrypted, with tokens, empty."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from components.deploy.step import deploy
from get3d_model.errors import InputError
from serving import environment
from serving.access import ServerAccess
from serving.client import Get3DClient
from serving.connection import Connection, Tls, add_connection_arguments, connection_from
from serving.server import TritonServer
from tests.components.deploy_helpers import REQUEST, box, write_export
from tests.serving.certificates import write_certificates

TOKEN, CONTROL_TOKEN = "0123456789abcdef", "fedcba9876543210"


def test_first_deployment_by_name_tls_and_tokens(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What a secret of Kubernetes gives the step is all it needs, and shows up nowhere."""
    certificates = write_certificates(tmp_path)
    served, exported = tmp_path / "served", write_export(tmp_path / "exported", 1)
    (served / "get3d").mkdir(parents=True)
    access = ServerAccess(
        certificates.server_cert, certificates.server_key, token=TOKEN, control_token=CONTROL_TOKEN
    )
    out = tmp_path / "out"
    with TritonServer(served, access=access, may_be_empty=True) as server:
        # Every address of the name is a replica; the server listens at the IPv4 one.
        url = f"dns:///127.0.0.1:{server.ports.grpc}"
        monkeypatch.setenv(environment.TLS_CA, certificates.ca.read_text())
        for given, missing in (
            ({}, "refuses calls without its token"),
            ({environment.CONTROL_TOKEN: CONTROL_TOKEN}, "refuses calls without its token"),
            ({environment.TOKEN: "short"}, f"{environment.TOKEN}: a token has at least"),
        ):
            with monkeypatch.context() as patched, pytest.raises(SystemExit) as refused:
                for name, value in given.items():
                    patched.setenv(name, value)
                deploy(str(exported), str(served), url, 60, str(out / "refused"))
            assert refused.value.code == 2 and missing in capfd.readouterr().err
        monkeypatch.setenv(environment.TOKEN, TOKEN)
        monkeypatch.setenv(environment.CONTROL_TOKEN, CONTROL_TOKEN)
        result = deploy(str(exported), str(served), url, 60, str(out))
        assert result["outcome"] == "deployed"
        assert list(result["replicas"]) == [f"127.0.0.1:{server.ports.grpc}"]
        secure = Get3DClient(server.grpc_url, tls=Tls(certificates.ca), token=TOKEN)
        with secure as client:
            assert client.sample(REQUEST).mesh == box(1)
    told = "".join(capfd.readouterr())
    told += "".join(
        path.read_text(errors="replace") for path in (*out.rglob("*"), *served.rglob("*")) if path.is_file()
    )
    for secret in (TOKEN, CONTROL_TOKEN, "short", "-----BEGIN"):
        assert secret not in told


def test_options_come_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = write_certificates(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    parser = argparse.ArgumentParser()
    add_connection_arguments(parser)
    assert connection_from(parser.parse_args([])) == Connection(parser.get_default("url"))
    monkeypatch.setenv(environment.TOKEN, CONTROL_TOKEN)
    monkeypatch.setenv(environment.TLS_CA, str(certificates.other_ca))
    found = connection_from(parser.parse_args([]))
    assert found.token == CONTROL_TOKEN and found.tls == Tls(certificates.other_ca)
    asked = ["--token-file", str(tmp_path / "token"), "--tls-ca", str(certificates.ca)]
    found = connection_from(parser.parse_args(asked))
    assert found.token == TOKEN and found.tls == Tls(certificates.ca)
    assert TOKEN not in repr(found)
    monkeypatch.setenv(environment.TLS_CA, str(tmp_path / "missing"))
    with pytest.raises(InputError, match="missing: cannot be read"):
        connection_from(parser.parse_args([]))
