"""Roll-outs under load: 20 good ones in a row and 5 bad ones lose no request; killed anywhere, a roll-out is finished.

The stand-in model of tests/components/deploy_helpers.py loads quickly; the first test is made with the real one as well
(tiny, untrained), which takes as long as a hundred starts of torch.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.export.main import export
from get3d_model.files import sha256_file, write_json_atomic
from serving.client import Get3DClient
from serving.codec import SampleRequest
from serving.reference import REFERENCE_FILE, REFERENCE_MESH_FILE
from serving.repository import CARD_FILE, CONFIG_FILE
from serving.server import TritonServer
from tests.components.deploy_helpers import BAD, Deploys, Load, answers, box, write_export
from tests.serving.tiny import write_checkpoint

pytestmark = pytest.mark.e2e

GOOD_ROLLOUTS = 20
CONCURRENCY = 8
REQUEST = SampleRequest(3, 0.7, 64, "glb")
FAULTS = ("broken weights", "wrong reference sample", "missing file", "bad configuration", "crash on load")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "served"


@pytest.fixture
def servers(target: Path) -> Iterator[list[TritonServer]]:
    with TritonServer(target, may_be_empty=True) as first, TritonServer(target, may_be_empty=True) as second:
        yield [first, second]


@pytest.fixture
def deploy(target: Path, servers: list[TritonServer], tmp_path: Path) -> Deploys:
    return Deploys(target, servers, tmp_path)


def spoiled(repository: Path, folder: Path, fault: str, other: Path) -> Path:
    """A copy that passes for exported, but has a fault."""
    shutil.copytree(repository, folder)
    version = folder / "get3d" / "1"
    card = json.loads((version / CARD_FILE).read_text())
    weights = version / "generator_ema.safetensors"
    if not weights.exists():
        weights = version / "weights.glb"
    if fault == "broken weights":
        weights.write_bytes(weights.read_bytes()[10:])
    elif fault == "wrong reference sample":
        for name in (REFERENCE_FILE, REFERENCE_MESH_FILE):
            shutil.copyfile(other / "get3d" / "1" / name, version / name)
    elif fault == "missing file":
        weights.unlink()
    elif fault == "bad configuration":
        config = version.parent / CONFIG_FILE
        config.write_text(config.read_text().replace('backend: "python"', 'backend: "of_another_kind"'))
    elif fault == "crash on load":
        with open(version / "model.py", "a") as file:
            file.write("\nos._exit(3)\n")
    # What is told to be there is there: only the roll-out itself can find the fault.
    card["files"] = {n: sha256_file(version / n) for n in card["files"] if (version / n).exists()}
    write_json_atomic(version / CARD_FILE, card)
    return folder


def real_export(folder: Path, seed: int) -> Path:
    (folder / f"checkpoint{seed}").mkdir()
    export(write_checkpoint(folder / f"checkpoint{seed}", seed), folder / f"export{seed}")
    return folder / f"export{seed}"


@pytest.mark.parametrize("model", ["stand-in", "real"])
def test_twenty_good_and_five_bad_lose_no_request(
    deploy: Deploys,
    servers: list[TritonServer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
) -> None:
    if model == "real":
        exports = [real_export(tmp_path, seed) for seed in (0, 1)]
    else:
        exports = [write_export(tmp_path / f"export{number}", number) for number in (0, 1)]
    assert deploy("--repository", str(exports[0])) == 0
    good, outcomes, seconds = {str(deploy.report["version"])}, [], []
    urls = [server.grpc_url for server in servers]
    with (
        Load(urls[0], CONCURRENCY // 2, REQUEST) as first,
        Load(urls[1], CONCURRENCY // 2, REQUEST) as second,
    ):
        for number in range(1, GOOD_ROLLOUTS + 1):
            assert deploy("--repository", str(exports[number % 2])) == 0
            good.add(str(deploy.report["version"]))
            seconds.append(deploy.report["seconds"])
            if number % 4 == 0:
                fault = FAULTS[number // 4 - 1]
                # Of the one that is not served now: what is served is only tested again.
                bad = spoiled(exports[1], tmp_path / fault.replace(" ", "-"), fault, exports[0])
                assert deploy("--repository", str(bad)) == 2, fault
                outcomes.append(deploy.report["outcome"])
                ready = [Get3DClient(url).is_ready() for url in urls]
                assert ready == [True, True], f"{fault} hurt the healthy version's readiness"
    capsys.readouterr()
    assert outcomes == ["rolled_back"] * len(FAULTS)
    answered = first.answers + second.answers
    with capsys.disabled():
        print(
            f"\n{model} model: {len(seconds)} roll-outs of {min(seconds):.1f} to {max(seconds):.1f} s, {len(outcomes)} bad "
            f"ones, {CONCURRENCY} clients: {sum(answered.values())} answers, "
            f"{len(first.failures) + len(second.failures)} failures (load {os.getloadavg()[0]:.1f})"
        )
    assert first.failures == second.failures == []
    assert set(answered) <= good, "a client was answered by a version that was not good"
    assert len(answered) == GOOD_ROLLOUTS + 1, "each version answered clients"


@pytest.mark.parametrize("bad", BAD)
def test_bad_versions_change_nothing(
    deploy: Deploys, servers: list[TritonServer], bad: str, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy("--repository", deploy.export(10))
    before = deploy.served.snapshot()
    capsys.readouterr()
    assert deploy("--repository", deploy.export(11, bad)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert deploy.report["outcome"] == "rolled_back" and deploy.report["version"] == before.current
    assert deploy.served.snapshot() == before and deploy.served.versions()[-1] == before.current
    assert answers(servers) == [box(10)] * 2
    assert not (target / "get3d_candidate").exists()
    for server in servers:
        with Get3DClient(server.grpc_url) as client:
            assert client.is_ready() and client._stub.is_server_ready()
        server.check()


def test_numbers_grow_and_old_versions_go(deploy: Deploys) -> None:
    numbers = []
    for number in (30, 31, 32):
        deploy("--repository", deploy.export(number), "--keep", "2")
        numbers.append(deploy.report["version"])
    assert numbers == sorted(set(numbers))
    assert deploy.served.versions() == deploy.served.snapshot().served == numbers[-2:]
    deploy("--repository", deploy.export(33, "broken_weights"))
    failed = deploy.report["attempted_version"]
    deploy("--repository", deploy.export(34), "--keep", "1")
    assert deploy.report["version"] > failed, "a number was used for two contents"
    assert deploy.served.versions() == [deploy.report["version"]]
    assert deploy.report["removed_versions"] == numbers[-2:]


def test_killed_anywhere_and_started_again(deploy: Deploys, servers: list[TritonServer]) -> None:
    """Before every call that changes something: clients get good answers throughout, and the next run finishes."""
    deploy("--repository", deploy.export(50))
    kills = 0
    with Load(servers[0].grpc_url, 4) as load:
        for step in range(1, 100):
            number = 51 + step
            export_folder = deploy.export(number)
            if not deploy.killed(f"any:{step}", "--repository", export_folder):
                break
            kills += 1
            assert deploy("--repository", export_folder) == 0
            assert answers(servers) == [box(number)] * 2, f"killed at call {step}"
            assert len(deploy.served.versions()) == 2
    assert kills > 12
    assert load.failures == []


def test_a_roll_back_that_is_killed_is_finished(deploy: Deploys, servers: list[TritonServer]) -> None:
    """Started again it ends where it was going, and not one version further."""
    for number in (60, 61, 62):
        deploy("--repository", deploy.export(number), "--keep", "3")
    for step in range(1, 20):
        if not deploy.killed(f"any:{step}", "--rollback"):
            break
        assert deploy("--rollback") == 0
        assert answers(servers) == [box(61)] * 2, f"killed at call {step}"
        assert deploy("--repository", deploy.export(62), "--keep", "3") == 0
        time.sleep(0.1)
    assert step > 3


def test_again_changes_nothing(deploy: Deploys) -> None:
    export = deploy.export(40)
    deploy("--repository", export)
    first = deploy.report
    assert deploy("--repository", export) == 0
    assert deploy.report["version"] == first["version"]
    assert deploy.report["previous_version"] == first["previous_version"]


def test_a_killed_one_is_settled_before_another(deploy: Deploys, servers: list[TritonServer]) -> None:
    """A switch that nobody saw through is not what the next roll-out falls back to."""
    deploy("--repository", deploy.export(150))
    good, number = deploy.report["version"], 151
    # Two tests of the candidate, then the first replica loads it for all.
    assert deploy.killed("load:4", "--repository", deploy.export(number))
    assert deploy.served.pending() is not None and deploy.served.snapshot().current != good
    assert deploy("--repository", deploy.export(152)) == 0
    assert deploy.report["previous_version"] == good and deploy.served.snapshot().previous == good
    assert answers(servers) == [box(152)] * 2


def test_a_replica_that_is_away(
    deploy: Deploys, servers: list[TritonServer], capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{servers[0].grpc_url},127.0.0.1:9"
    deploy("--repository", deploy.export(80))
    before = deploy.served.snapshot()
    assert deploy("--repository", deploy.export(81), "--url", url, "--timeout-s", "1") == 2
    assert "127.0.0.1:9 is not reachable" in capsys.readouterr().err
    assert deploy.served.snapshot() == before and answers(servers) == [box(80)] * 2
