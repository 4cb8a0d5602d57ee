"""What the bodies of the Kubeflow components share."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from components import artifacts, code_version
from components.evaluate.step import verdict
from components.validate.main import STEP_MODULES
from get3d_model.errors import InputError


def test_a_pointer_leads_to_what_it_was_written_for(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    pointer = tmp_path / "pointer.json"
    facts = artifacts.write_pointer(pointer, folder, {"images": 3})
    assert facts["images"] == 3 and len(facts["manifest_sha256"]) == 64
    assert artifacts.read_pointer(pointer) == folder
    (folder / "manifest.json").write_text('{"other": 1}')
    with pytest.raises(InputError, match="was changed since"):
        artifacts.read_pointer(pointer)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="was changed since"):
        artifacts.read_pointer(pointer)
    folder.rmdir()
    with pytest.raises(InputError, match="is gone"):
        artifacts.read_pointer(pointer)
    pointer.write_text("nothing")
    with pytest.raises(InputError, match="is no pointer"):
        artifacts.read_pointer(pointer)


def test_metrics_are_finite_numbers_and_a_file(tmp_path: Path) -> None:
    logged: dict[str, float] = {}
    artifact = SimpleNamespace(path=str(tmp_path / "metrics"), log_metric=logged.__setitem__)
    artifacts.log_metrics(artifact, {"a": 1, "b": None, "c": math.nan, "d": "text", "e": True, "f": 0.5})
    assert logged == {"a": 1.0, "f": 0.5}
    # Without content kfp would never find the step in its cache.
    assert json.loads((tmp_path / "metrics").read_text()) == logged


def test_a_picture_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    Image.fromarray(np.full((50, 2000, 3), 200, np.uint8)).save(path)
    markdown = artifacts.picture(path)
    (data,) = re.fullmatch(r"!\[grid]\(data:image/jpeg;base64,(.*)\)", markdown).groups()
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (artifacts.PICTURE_WIDTH, 18)
    assert artifacts.picture(tmp_path / "missing.png") == ""


def test_tables_stay_tables() -> None:
    text = artifacts.table({"a|b": 1 / 3, "c": "two\nlines|"}, ("x", "y"))
    assert text.splitlines()[2:] == ["| a|b | 0.33333 |", "| c | two lines\\| |"]


def test_bad_input_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, artifacts.one_line_errors("render"):
        raise InputError("no such folder")
    assert end.value.code == 2 and capsys.readouterr().err == "get3d render: no such folder\n"
    with pytest.raises(ZeroDivisionError), artifacts.one_line_errors("render"):
        _ = 1 / 0
    with pytest.raises(SystemExit) as end:
        artifacts.call(lambda argv: len(argv), "three", "words", 1)
    assert end.value.code == 3


def test_what_a_step_prints_is_a_record_away_from_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GET3D_LOG_FORMAT", "auto")
    monkeypatch.setenv("GET3D_RUN_ID", "run-7")
    with pytest.raises(SystemExit), artifacts.one_line_errors("render"):
        print("4 meshes")
        raise InputError("no such folder")
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [(r["level"], r["message"]) for r in records] == [
        ("info", "4 meshes"),
        ("error", "no such folder"),
    ]
    assert {(r["command"], r["run_id"]) for r in records} == {("render", "run-7")}
    assert err == "get3d render: no such folder\n", "what the command itself says stays plain"


def test_a_step_ends_with_the_process_that_runs_the_pipeline() -> None:
    program = """
import os, sys, time
from components.artifacts import one_line_errors
with one_line_errors("step"):
    print("started", flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen(["sleep", "60"])
    environment = {
        "GET3D_PIPELINE_PROCESS": str(owner.pid),
        "GET3D_LOG_FORMAT": "text",
        "PATH": "/usr/bin",
    }
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as step:
        assert step.stdout is not None and step.stdout.readline() == b"started\n"
        owner.kill()
        owner.wait()
        assert step.wait(timeout=20) != 0


@pytest.mark.parametrize(
    ("promote", "decision"), [("auto", "hold"), ("always", "promote"), ("never", "hold")]
)
def test_a_person_goes_before_the_gate(promote: str, decision: str, tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text(json.dumps({"decision": "hold", "reasons": ["cd_cov is 0.1"]}))
    found = verdict(str(tmp_path), promote)
    assert found["decision"] == decision and found["reasons"][-1] == "cd_cov is 0.1"
    assert len(found["reasons"]) == (1 if promote == "auto" else 2)
    (tmp_path / "gate.json").write_text('{"decision": "maybe"}')
    with pytest.raises(InputError, match="decision must be one of promote, hold"):
        verdict(str(tmp_path))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "components/__init__.py": "",
        "components/a.py": "import os\ndef f():\n    from get3d_model.deep import thing\n",
        "components/b.py": "import json\n",
        "get3d_model/__init__.py": "",
        "get3d_model/deep.py": "from get3d_model import other\nthing = 1\n",
        "get3d_model/other.py": "",
        "get3d_model/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code_version, "ROOT", tmp_path)
    return tmp_path


def test_the_version_of_code_changes_with_what_it_reaches_and_with_nothing_else(sources: Path) -> None:
    def version() -> str:
        code_version._imported.cache_clear()
        return code_version.code_version("components.a")

    first = version()
    for name in ("components/b.py", "get3d_model/unused.py"):
        (sources / name).write_text("changed = 1\n")
        assert version() == first, name
    for name in ("components/a.py", "components/__init__.py", "get3d_model/deep.py", "get3d_model/other.py"):
        before = version()
        (sources / name).write_text((sources / name).read_text() + "changed = 1\n")
        assert version() != before, name


def test_the_steps_of_this_project_reach_their_code() -> None:
    reached = {str(p.relative_to(code_version.ROOT)) for p in code_version._files(("components.train.main",))}
    assert {
        "get3d_model/training/trainer.py",
        "get3d_model/generator.py",
        "get3d_model/losses/adversarial.py",
    } <= reached
    assert "serving/server.py" not in reached


@pytest.mark.parametrize(
    ("step", "files"),
    [
        ("render", ["components/render/blender/driver.py"]),
        ("evaluate", ["components/evaluate/evaluation.html.j2", "components/report/style.css.j2"]),
        ("export", ["components/export/credits.md", "serving/model_repository/get3d/model.py"]),
    ],
)
def test_files_that_a_step_reads_are_its_code_too(step: str, files: list[str]) -> None:
    reached = code_version._files(STEP_MODULES[step])
    assert set(files) <= {path.relative_to(code_version.ROOT).as_posix() for path in reached}


def test_what_is_read_is_there() -> None:
    for names in code_version.READ_BY.values():
        for name in names:
            assert (code_version.ROOT / name).exists(), name
