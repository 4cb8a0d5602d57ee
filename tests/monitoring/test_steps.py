"""Steps tell a real Pushgateway, or textfiles; a report that does not arrive is no step's fault."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.artifacts import one_line_errors
from components.finish.main import finish
from get3d_model.errors import InputError
from monitoring import steps
from pipelines import cli
from tests.components.remote_servers import free_port, no_http

Samples = dict[tuple[str, ...], float]


def parsed(text: str, *labels: str) -> Samples:
    """By name and the values of these labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("get3d_"):
                found[
                    (sample.name.removeprefix("get3d_pipeline_"), *(sample.labels.get(x, "") for x in labels))
                ] = sample.value
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(steps.PUSHGATEWAY, raising=False)
    monkeypatch.setenv(steps.FOLDER, str(tmp_path / "textfiles"))
    return tmp_path / "textfiles"


def read(folder: Path) -> Samples:
    text = "".join(path.read_text() for path in sorted(folder.glob("*.prom")))
    return parsed(text, "step", "outcome")


def test_a_component_reports_duration_and_outcome(folder: Path) -> None:
    with one_line_errors("data merge"):
        time.sleep(0.05)
    with pytest.raises(SystemExit), one_line_errors("render"):
        raise InputError("nothing to render")
    with pytest.raises(SystemExit), one_line_errors("train"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), one_line_errors("export"):
        _ = 1 // 0
    samples = read(folder)
    outcomes = {key[1]: key[2] for key, value in samples.items() if key[0] == "step_outcome" and value == 1}
    assert outcomes == {
        "data_merge": "succeeded",
        "render": "failed",
        "train": "interrupted",
        "export": "failed",
    }
    assert 0.05 <= samples["step_duration_seconds", "data_merge", ""] < 5
    assert abs(samples["step_timestamp_seconds", "render", ""] - time.time()) < 60


def test_commands_report_too_and_others_do_not(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["gate", "--evaluation", str(tmp_path)]) == 2
    with pytest.raises(SystemExit), steps.timed("serve"):
        raise SystemExit(1)
    samples = read(folder)
    assert samples["step_outcome", "gate", "failed"] == 1
    assert {key[1] for key in samples} == {"gate"}


def test_outcomes_of_runs(folder: Path, tmp_path: Path) -> None:
    for state, outcome in (("SUCCEEDED", "succeeded"), ("FAILED", "failed"), ("INTERRUPTED", "interrupted")):
        finish(tmp_path, f"run-{state}", state)
        assert read(folder)["run_outcome", "", outcome] == 1
    steps.report_rows("render", 90, 10)
    assert read(folder)["rejected_rows", "render", ""] == 10


def held(folder: Path) -> float:
    return read(folder)["gate_held_runs", "", ""]


def test_runs_that_are_held_in_a_row_are_counted(folder: Path) -> None:
    counts = []
    for promoted in (False, False, True, False):
        steps.report_gate(promoted)
        counts.append(held(folder))
    assert counts == [1, 2, 0, 1]


def test_nobody_is_told_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (steps.PUSHGATEWAY, steps.FOLDER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(steps, "_step", lambda *_: pytest.fail("made metrics for nobody"))
    with one_line_errors("render"):
        pass


def test_a_gateway_that_is_away_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(steps.FOLDER, raising=False)
    monkeypatch.setenv(steps.PUSHGATEWAY, f"http://127.0.0.1:{free_port()}")
    with one_line_errors("render"):
        pass
    steps.report_gate(False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("metrics were not reported to http://127.0.0.1:") for line in lines
    )


def test_a_gateway_that_is_something_else_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(steps.FOLDER, raising=False)
    with no_http() as address:
        for url in (address, f"http://{address}x"):
            monkeypatch.setenv(steps.PUSHGATEWAY, url)
            with one_line_errors("render"):
                pass
            steps.report_gate(False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("metrics were not reported to ") for line in lines)


@pytest.fixture
def gateway() -> Iterator[str]:
    """A real Pushgateway."""
    program = shutil.which("prometheus-pushgateway")
    if program is None:
        pytest.skip("no prometheus-pushgateway; apt-get install prometheus-pushgateway")
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen([program, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/-/ready", timeout=2)
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def test_a_real_pushgateway(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(steps.PUSHGATEWAY, gateway)
    monkeypatch.delenv(steps.FOLDER, raising=False)
    for step in ("render", "data merge"):
        with one_line_errors(step):
            pass
    with pytest.raises(SystemExit), one_line_errors("render"):
        raise InputError("no")
    steps.report_rows("render", 9, 1)
    for promoted in (False, False):
        steps.report_gate(promoted)
    text = urllib.request.urlopen(f"http://{gateway}/metrics", timeout=5).read().decode()
    samples = parsed(text, "job", "step", "outcome")
    job = steps.JOB
    assert samples["step_outcome", job, "render", "failed"] == 1
    assert samples["step_outcome", job, "render", "succeeded"] == 0, "the last run replaces the one before"
    assert samples["step_outcome", job, "data_merge", "succeeded"] == 1, "another step's stays"
    assert samples["rejected_rows", job, "render", ""] == 1 and samples["gate_held_runs", job, "", ""] == 2
