"""`get3d sample` where no server is needed; tests/serving/test_server.py and test_access.py run it against one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.sample.main import SAMPLES_FILE, add_arguments, main, sample_to_folder
from components.sample.requests import NamedRequest, requests_from
from serving.client import ServiceError
from serving.codec import SampleMetadata, SampleRequest, SampleResponse

METADATA = SampleMetadata(0, 0.7, 64, "glb", 3, 1, False, 1, "tiny", "1", 0.0, "ab", 1, {"networks": 1.0})


class FakeClient:
    """Answers the last request first, until `failing` comes."""

    def __init__(self, failing: int) -> None:
        self.failing = failing

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_until_ready(self) -> None:
        pass

    def sample_as_completed(self, requests: object, concurrency: int):
        for place, request in reversed(list(enumerate(requests))):
            if request.seed == self.failing:
                raise ServiceError("broken", "INTERNAL")
            metadata = replace(METADATA, seed=request.seed, file_format=request.file_format or "glb")
            latent = np.arange(3, dtype=np.float32) if request.delivers("latent") else None
            pictures = tuple(b"png%d" % i for i in range(request.preview_frames or 1))
            yield (
                place,
                SampleResponse(
                    b"mesh%d" % request.seed if request.delivers("mesh") else b"",
                    metadata,
                    pictures if request.delivers("preview") else (),
                    latent,
                    latent,
                ),
            )


def parsed(*arguments: str) -> list[NamedRequest]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return requests_from(parser.parse_args(["--out", "x", *arguments]))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_and_their_description(tmp_path: Path) -> None:
    requests = [
        NamedRequest("seed0000", SampleRequest(0, file_format="glb")),
        NamedRequest("seed12345", SampleRequest(12345, file_format="obj")),
    ]
    out = tmp_path / "new" / "out"
    samples = sample_to_folder(FakeClient(-1), requests, out, 2)
    assert (out / "seed0000.glb").read_bytes() == b"mesh0"
    assert (out / "seed12345.obj.zip").read_bytes() == b"mesh12345"
    assert json.loads((out / SAMPLES_FILE).read_text()) == samples
    assert [sample["seed"] for sample in samples] == [0, 12345], "in the order of the requests"


def test_pictures_and_latents(tmp_path: Path) -> None:
    requests = parsed("--count", "1", "--turntable", "3", "--save-latents", "--no-mesh")
    (sample,) = sample_to_folder(FakeClient(-1), requests, tmp_path, 1)
    pictures = [f"seed0000_{frame:03d}.png" for frame in range(3)]
    assert set(names(tmp_path)) == {
        SAMPLES_FILE, "seed0000.npz", *pictures,
    }  # fmt: skip
    assert (sample["previews"], sample["latents"]) == (pictures, "seed0000.npz") and "file" not in sample
    # What was written can be given again.
    (again,) = parsed("--latents", str(tmp_path / "seed0000.npz"))
    assert again.request == SampleRequest(w_geo=np.arange(3.0), w_tex=np.arange(3.0))


def test_what_the_options_mean() -> None:
    assert parsed("--seed", "7", "--count", "2") == [
        NamedRequest("seed0007", SampleRequest(7)), NamedRequest("seed0008", SampleRequest(8)),
    ]  # fmt: skip
    (mixed,) = parsed("--mix", "3,5", "--weights", "0.25,0.75", "--texture-seed", "9", "--triangles", "500")
    assert mixed.stem == "mix3-5"
    assert mixed.request == SampleRequest((3, 5), weights=(0.25, 0.75), seed_tex=9, target_triangles=500)
    (even,) = parsed("--mix", "1,2,3")
    assert even.request.weights == pytest.approx([1 / 3] * 3)
    walk = parsed("--between", "3,5", "--count", "3")
    assert [named.request.weights for named in walk] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    assert [named.stem for named in walk] == ["step0000", "step0001", "step0002"]
    (seen,) = parsed("--count", "1", "--preview", "128", "--azimuth", "-30", "--color", "vertex")
    assert seen.request == SampleRequest(
        0, deliver="mesh,preview", preview_resolution=128, preview_azimuth_deg=-30.0, color="vertex"
    )


def test_a_failure_leaves_no_half_files(tmp_path: Path) -> None:
    requests = [NamedRequest(f"seed{s:04d}", SampleRequest(s, file_format="glb")) for s in range(3)]
    with pytest.raises(ServiceError):
        sample_to_folder(FakeClient(1), requests, tmp_path, 1)
    assert names(tmp_path) == ["seed0002.glb"]


def test_a_failing_server_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("components.sample.main.Get3DClient", lambda connection, timeout_s: FakeClient(0))
    assert main(["--out", str(tmp_path), "--count", "3", "--format", "glb"]) == 1
    assert capsys.readouterr().err == "get3d sample: broken\n"
    assert names(tmp_path) == ["seed0001.glb", "seed0002.glb"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--count", "0"], "--count must be 1 to 1000000"),
        (["--count", "99999999999"], "--count must be 1 to 1000000"),
        (["--timeout", "0"], "--timeout must be above 0 and at most 86400 seconds"),
        (["--timeout", "nan"], "--timeout must be above 0"),
        (["--timeout", "inf"], "--timeout must be above 0"),
        (["--seed", "-1"], "seed -1 is out of range"),
        (["--seed", str(2**63 - 1), "--count", "2"], "passes the largest seed"),
        (["--truncation-psi", "3"], "truncation_psi 3.0"),
        (["--texture-resolution", "100"], "texture_resolution 100"),
        (["--concurrency", "0"], "--concurrency must be at least 1"),
        (["--url", "localhost"], "host:port"),
        (["--mix", "1,2", "--between", "1,2"], "--mix and --between exclude each other"),
        (["--mix", "1,2", "--seed", "0", "--count", "4"], "--mix does not go with --seed and --count"),
        (["--between", "1,2", "--seed", "3"], "--between does not go with --seed"),
        (["--latents", "l.npz", "--count", "2"], "--latents does not go with --count"),
        (["--weights", "0.5,0.5"], "--weights needs --mix"),
        (["--mix", "1,2", "--weights", "0.5,0.6"], "sum is 1"),
        (["--between", "1"], "--between needs two seeds"),
        (["--azimuth", "3"], "for --preview or --turntable"),
        (["--no-mesh"], "leaves nothing to write"),
        (["--latents", "nowhere.npz"], "nowhere.npz: is not an .npz file"),
        (["--color", "vertex", "--format", "obj"], "no colours at vertices"),
        (["--tls-cert", "x"], "needs its key"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", "127.0.0.1:9", "--out", str(tmp_path), *arguments]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def written(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: path.write_bytes(b""), "is not an .npz file"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut short"), "is not an .npz file"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "is not an .npz file"),
        (lambda path: written(path, w_geo=np.array([{}]), w_tex=np.zeros(3)), "is not an .npz file"),
        (lambda path: written(path, other=np.zeros(3)), "needs arrays of as many rows each"),
        (lambda path: written(path, w_geo=np.zeros((0, 3)), w_tex=np.zeros((0, 3))), "needs arrays"),
        (lambda path: written(path, w_geo=np.zeros(3, complex), w_tex=np.zeros(3)), "must be numbers"),
        (lambda path: written(path, w_geo=np.full(3, np.nan), w_tex=np.zeros(3)), "NaN"),
    ],
)
def test_bad_files_of_latents_are_named(
    write: Callable[[Path], None], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "latents.npz"
    write(path)
    assert main(["--url", "127.0.0.1:9", "--out", str(tmp_path / "out"), "--latents", str(path)]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1


def test_lists_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed("--mix", "a,b")
    assert caught.value.code == 2
    assert "argument --mix: 'a,b' must be whole numbers with commas between" in capsys.readouterr().err
