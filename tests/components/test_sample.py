"""`get3d sample` where no server is needed; tests/serving/test_server.py runs it against one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.sample.main import SAMPLES_FILE, main, sample_to_folder
from serving.client import ServiceError
from serving.codec import SampleMetadata, SampleRequest, SampleResponse

METADATA = SampleMetadata(0, 0.7, 64, "glb", 3, 1, False, 1, "tiny", "1", 0.0, "ab", 1, {"networks": 1.0})


class FakeClient:
    """Answers until `failing` comes."""

    def __init__(self, failing: int) -> None:
        self.failing = failing

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_until_ready(self) -> None:
        pass

    def sample_many(self, requests: list[SampleRequest], concurrency: int):
        for request in requests:
            if request.seed == self.failing:
                raise ServiceError("broken", "INTERNAL")
            metadata = replace(METADATA, seed=request.seed, file_format=request.file_format)
            yield SampleResponse(b"mesh%d" % request.seed, metadata)


def test_files_and_their_description(tmp_path: Path) -> None:
    requests = [SampleRequest(0, file_format="glb"), SampleRequest(12345, file_format="obj")]
    samples = sample_to_folder(FakeClient(-1), requests, tmp_path / "new" / "out", 2)
    assert (tmp_path / "new" / "out" / "seed0000.glb").read_bytes() == b"mesh0"
    assert (tmp_path / "new" / "out" / "seed12345.obj.zip").read_bytes() == b"mesh12345"
    assert json.loads((tmp_path / "new" / "out" / SAMPLES_FILE).read_text()) == samples
    assert [sample["seed"] for sample in samples] == [0, 12345]


def test_a_failure_leaves_no_half_files(tmp_path: Path) -> None:
    with pytest.raises(ServiceError):
        sample_to_folder(FakeClient(1), [SampleRequest(s, file_format="glb") for s in range(3)], tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["seed0000.glb"]


def test_a_failing_server_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.sample.main.Get3DClient", lambda url, timeout_s: FakeClient(2))
    with pytest.raises(SystemExit, match="get3d sample: broken"):
        main(["--out", str(tmp_path), "--count", "3", "--format", "glb"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed0000.glb", "seed0001.glb"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--count", "0"], "--count must be at least 1"),
        (["--seed", "-1"], "seed -1 is out of range"),
        (["--seed", str(2**63 - 1), "--count", "2"], "passes the largest seed"),
        (["--truncation-psi", "3"], "truncation_psi 3.0"),
        (["--texture-resolution", "100"], "texture_resolution 100"),
        (["--concurrency", "0"], "--concurrency must be at least 1"),
        (["--url", "localhost"], "host:port"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", "127.0.0.1:9", "--out", str(tmp_path), *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
