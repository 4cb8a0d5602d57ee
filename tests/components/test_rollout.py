"""What a roll-out does about trouble that real servers rarely make: replicas away one by one, files that cannot be
removed, a disk that is full. The repository is a real folder; the replicas are stand-ins that read its configuration.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.deploy import main as command
from components.deploy import store as store_module
from components.deploy.rollout import Rollout, read_export
from components.deploy.served import ServedRepository
from components.deploy.store import UPLOAD_PREFIX, FolderStore
from serving.codec import MODEL_NAME
from serving.replica import ReplicaError
from tests.components.deploy_helpers import write_export


class StandInReplica:
    """Serves what the repository says at each load. away: whether it answers nothing."""

    def __init__(self, url: str, served: ServedRepository) -> None:
        self.url, self.served = url, served
        self.away = False
        self.loaded: list[int] = []

    def __enter__(self) -> StandInReplica:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def load(self, model: str) -> None:
        self._reach()
        if model == MODEL_NAME:
            self.loaded = self.served.snapshot().served

    def unload(self, model: str) -> None:
        self._reach()

    def states(self, model: str) -> dict[int, str]:
        self._reach()
        return dict.fromkeys(self.loaded, "READY")

    def wait_until_gone(self, model: str, versions: list[int], timeout_s: float) -> bool:
        self._reach()
        return True

    def sample(self, model: str, version: int | None, request: object) -> SimpleNamespace:
        self._reach()
        number = version or self.loaded[-1]
        metadata = SimpleNamespace(version=str(number))
        return SimpleNamespace(mesh=self.served.reference(number).mesh, metadata=metadata)

    def _reach(self) -> None:
        if self.away:
            raise ReplicaError(f"{self.url}: is away")


@pytest.fixture
def served(tmp_path: Path) -> ServedRepository:
    return ServedRepository(FolderStore(tmp_path / "served"))


@pytest.fixture
def replicas(served: ServedRepository) -> list[StandInReplica]:
    return [StandInReplica(f"host{number}:8001", served) for number in range(3)]


@pytest.fixture
def rollout(served: ServedRepository, replicas: list[StandInReplica]) -> Rollout:
    return Rollout(served, replicas, 2, lambda text: None)


def deployed(rollout: Rollout, tmp_path: Path, *numbers: int) -> None:
    for number in numbers:
        repository = write_export(tmp_path / f"export{number}", number)
        assert rollout.deploy(read_export(repository, None)).outcome == "deployed"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_replica_that_is_away_keeps_the_others_from_no_rollback(
    rollout: Rollout, replicas: list[StandInReplica], tmp_path: Path, place: int
) -> None:
    deployed(rollout, tmp_path, 1, 2)
    replicas[place].away = True
    report = rollout.roll_back()
    assert (report.outcome, report.version) == ("rolled_back", 1)
    assert f"not every replica followed: host{place}:8001: is away" in report.reason
    assert [replica.loaded for replica in replicas] == [[1, 2] if n == place else [1] for n in range(3)]
    states = [report.replicas[replica.url].state for replica in replicas]
    assert states == ["failed" if n == place else "serving" for n in range(3)]
    # The next run ends it.
    replicas[place].away = False
    assert rollout.roll_back().reason == "asked for"
    assert [replica.loaded for replica in replicas] == [[1]] * 3


def test_old_versions_that_cannot_be_removed_are_no_reason_to_go_back(
    rollout: Rollout,
    replicas: list[StandInReplica],
    served: ServedRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployed(rollout, tmp_path, 1, 2)

    def remove(version: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{MODEL_NAME}/{version}")

    monkeypatch.setattr(served, "remove_version", remove)
    report = rollout.deploy(read_export(write_export(tmp_path / "third", 3), None))
    assert (report.outcome, report.version, report.removed_versions) == ("deployed", 3, [])
    assert [replica.loaded for replica in replicas] == [[2, 3]] * 3
    assert served.snapshot().served == [2, 3] and served.versions() == [1, 2, 3] and served.pending() is None
    monkeypatch.undo()
    deployed(rollout, tmp_path, 4)
    assert served.versions() == [3, 4]


@pytest.mark.parametrize("for_the_state", [True, False])
def test_a_full_disk_is_left_as_it_was(
    replicas: list[StandInReplica],
    served: ServedRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    for_the_state: bool,
) -> None:
    """No half upload stays and keeps it full; one line and the report say why. for_the_state: there is room for that."""
    monkeypatch.setattr(command, "_replicas", lambda args: replicas)
    export = write_export(tmp_path / "export", 1)
    arguments = ["--target", served.store.location, "--url", "host:8001", "--out", str(tmp_path / "out")]

    def no_room(target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    def copy(source: str, target: str) -> None:
        Path(target).write_bytes(b"half")
        no_room(target)

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "_copy", copy)
        if not for_the_state:
            patched.setattr(FolderStore, "write", lambda self, name, content: no_room(self.root / name))
        assert command.main([*arguments, "--repository", str(export)]) == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message and "[(" not in message and message.count("\n") == 1
    assert [
        path.name for path in (tmp_path / "served").rglob("*") if path.name.startswith(UPLOAD_PREFIX)
    ] == []
    report = json.loads((tmp_path / "out" / command.REPORT_FILE).read_text())
    assert (report["outcome"], report["version"]) == ("rolled_back", None)
    assert "No space left" in report["reason"]
    assert command.main([*arguments, "--repository", str(export)]) == 0
