"""Roll-outs to real servers: under load, good ones, bad ones, back, killed, two at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.deploy import rollout
from components.deploy.main import main
from serving.replica import Replica
from serving.server import TritonServer
from tests.components.deploy_helpers import Deploys, Load, answers, box


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def servers(target: Path) -> Iterator[list[TritonServer]]:
    """Two replicas that read one repository, in which nothing has been deployed yet."""
    with TritonServer(target, may_be_empty=True) as first, TritonServer(target, may_be_empty=True) as second:
        yield [first, second]


@pytest.fixture
def deploy(target: Path, servers: list[TritonServer], tmp_path: Path) -> Deploys:
    return Deploys(target, servers, tmp_path)


def test_good_and_bad_ones_under_load(
    deploy: Deploys, servers: list[TritonServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """The short form of tests/e2e/test_rollouts.py: the first version, another, and one that is not good."""
    assert deploy("--repository", deploy.export(1)) == 0
    assert deploy.report["outcome"] == "deployed" and deploy.report["previous_version"] is None
    first = deploy.report["version"]
    with Load(servers[0].grpc_url, 4) as one, Load(servers[1].grpc_url, 4) as two:
        assert deploy("--repository", deploy.export(2)) == 0
        report = deploy.report
        assert (report["version"], report["previous_version"]) == (first + 1, first)
        assert answers(servers) == [box(2)] * 2
        assert {r["state"] for r in report["replicas"].values()} == {"serving"}
        assert all(r["identical"] for r in report["replicas"].values())
        capsys.readouterr()
        assert deploy("--repository", deploy.export(3, "wrong_reference")) == 2
        message = capsys.readouterr().err
        assert "rolled back" in message and "reference sample" in message and message.count("\n") == 1
        report = deploy.report
        assert (report["outcome"], report["version"]) == ("rolled_back", first + 1)
        assert report["attempted_version"] == first + 2 and "reference sample" in report["reason"]
        assert answers(servers) == [box(2)] * 2
    for load in (one, two):
        assert load.failures == []
        # Nobody was ever answered by a version that was not good.
        assert set(load.answers) == {str(first), str(first + 1)} and sum(load.answers.values()) > 20


@pytest.mark.e2e
def test_back_and_forth(
    deploy: Deploys, servers: list[TritonServer], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = deploy.export(20), deploy.export(21)
    deploy("--repository", old)
    deploy("--repository", new)
    newer, older = deploy.report["version"], deploy.report["previous_version"]
    with Load(servers[0].grpc_url, 2) as load:
        start = time.monotonic()
        assert deploy("--rollback") == 0
        seconds = time.monotonic() - start
    assert load.failures == [] and answers(servers) == [box(20)] * 2
    assert (deploy.report["outcome"], deploy.report["version"]) == ("rolled_back", older)
    assert deploy.report["previous_version"] == newer
    assert seconds < 10.0
    capsys.readouterr()
    assert deploy("--rollback") == 2
    assert f"keeps no version before {older}" in capsys.readouterr().err
    # The version that was left still lies there, and comes back under its number.
    assert deploy("--repository", new) == 0
    assert deploy.report["version"] == newer and answers(servers) == [box(21)] * 2


def test_one_at_a_time(deploy: Deploys, capsys: pytest.CaptureFixture[str]) -> None:
    export = deploy.export(60)
    with deploy.served.store.lock():
        assert deploy("--repository", export) == 2
    assert (
        f"another deploy is under way ({os.uname().nodename} process {os.getpid()}" in capsys.readouterr().err
    )
    assert deploy("--repository", export) == 0


@pytest.mark.e2e
def test_a_replica_that_fails_after_the_switch(
    deploy: Deploys, servers: list[TritonServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test fails on the second replica, when the first one serves the new version: both go back."""
    deploy("--repository", deploy.export(70))
    before = deploy.served.snapshot()
    original, second = Replica.sample, servers[1].grpc_url

    def sample(self: Replica, model: str, version: int | None, request: object) -> object:
        if version is None and self.url == second:
            raise rollout.ReplicaError(f"{self.url}: stand-in failure")
        return original(self, model, version, request)

    monkeypatch.setattr(Replica, "sample", sample)
    assert deploy("--repository", deploy.export(71)) == 2
    assert "stand-in failure" in deploy.report["reason"]
    assert answers(servers) == [box(70)] * 2 and deploy.served.snapshot() == before
    states = [deploy.report["replicas"][server.grpc_url]["state"] for server in servers]
    assert states == ["restored", "failed"]
    # One that was served before is not thrown away because a replica fails now.
    monkeypatch.undo()
    good = deploy.export(72)
    assert deploy("--repository", good) == 0
    monkeypatch.setattr(Replica, "sample", sample)
    assert deploy("--repository", good) == 2
    assert deploy.report["outcome"] == "deployed" and answers(servers) == [box(72)] * 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give either --repository"),
        (["--rollback", "--repository", "X"], "give either --repository"),
        (["--repository", "X", "--keep", "0"], "--keep must be at least 1"),
        (["--repository", "X", "--timeout-s", "0"], "--timeout-s must be above 0"),
        (["--repository", "X", "--timeout-s", "nan"], "--timeout-s must be above 0"),
        (["--rollback", "--version", "3"], "--version is for --repository"),
        (["--repository", "X", "--url", ","], "names no replica"),
        (["--repository", "X", "--url", "localhost"], "must be host:port"),
        (["--repository", "X", "--target", "nosuch://x"], "install the driver"),
        (["--repository", "X", "--target", "s3:/bucket"], "neither a folder nor an address"),
        (["--repository", "X", "--target", f"file://{Path.cwd()}/X"], "--target is --repository"),
        (["--rollback"], "serves nothing yet; deploy one"),
        (["--repository", "nowhere"], "nowhere: holds no model; make one with: get3d export"),
        (["--repository", "X", "--token-file", "nowhere"], "nowhere: cannot read the token"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standard = ["--target", str(tmp_path / "target"), "--url", "127.0.0.1:9", "--out", str(tmp_path / "out")]
    assert main([*standard, *arguments]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1
    assert not (tmp_path / "target").exists()
