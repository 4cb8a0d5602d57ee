"""The gate between evaluation and export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli import main


@pytest.mark.parametrize(
    ("decision", "promote", "code"),
    [
        ("promote", "auto", 0),
        ("hold", "auto", 2),
        ("hold", "always", 0),
        ("promote", "never", 2),
    ],
)
def test_the_decision_is_the_exit_status(
    decision: str, promote: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gate.json").write_text(
        json.dumps({"decision": decision, "reasons": ["cov 0.2 is below 0.3"], "production": None})
    )
    assert main(["gate", "--evaluation", str(tmp_path), "--promote", promote]) == code
    shown = capsys.readouterr()
    assert "cov 0.2 is below 0.3" in (shown.err if code else shown.out)
    assert shown.err.count("\n") == bool(code)
    assert ("change evaluation.thresholds" in shown.err) is (code == 2 and promote == "auto")


def test_without_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--evaluation", str(tmp_path)]) == 2
    assert "gate.json" in capsys.readouterr().err


@pytest.mark.parametrize("reasons", [None, "one line", 3])
def test_reasons_are_a_list(reasons: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gate.json").write_text(json.dumps({"decision": "promote", "reasons": reasons}))
    assert main(["gate", "--evaluation", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "reasons must be a list of lines" in error and error.count("\n") == 1
