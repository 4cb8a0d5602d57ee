"""The deploy step against a real server as it runs in a cluster: behind a name, with a token, empty, read-only."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.deploy.step import CONTROL_TOKEN, deploy
from serving.access import ServerAccess
from serving.server import TritonServer
from tests.components.deploy_helpers import answers, box, write_export

TOKEN = "0123456789abcdef"


def test_first_deployment_by_name_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served, exported = tmp_path / "served", write_export(tmp_path / "exported", 1)
    (served / "get3d").mkdir(parents=True)
    with TritonServer(served, access=ServerAccess(control_token=TOKEN), may_be_empty=True) as server:
        # Every address of the name is a replica; the server listens at the IPv4 one.
        url = f"dns:///127.0.0.1:{server.ports.grpc}"
        with pytest.raises(SystemExit) as refused:
            deploy(str(exported), str(served), url, 60, str(tmp_path / "refused"))
        assert refused.value.code == 2 and "refuses calls without its token" in capsys.readouterr().err
        monkeypatch.setenv(CONTROL_TOKEN, TOKEN)
        result = deploy(str(exported), str(served), url, 60, str(tmp_path / "out"))
        # The refused attempt has used number 1 up.
        assert (result["outcome"], result["version"]) == ("deployed", 2)
        assert list(result["replicas"]) == [f"127.0.0.1:{server.ports.grpc}"]
        assert answers([server]) == [box(1)]
    assert TOKEN not in capsys.readouterr().out
