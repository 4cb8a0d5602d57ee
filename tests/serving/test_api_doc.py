"""docs/serving-api.md is what the tables say."""

from __future__ import annotations

from pathlib import Path

from serving.api_doc import DEFAULT_FILE, api_text, main
from serving.codec import INPUTS, OUTPUTS


def test_the_page_is_up_to_date() -> None:
    assert DEFAULT_FILE.read_text() == api_text(), "run: python -m serving.api_doc"


def test_every_tensor_is_described(tmp_path: Path) -> None:
    assert main([str(tmp_path / "api.md")]) == 0
    text = (tmp_path / "api.md").read_text()
    for spec in (*INPUTS, *OUTPUTS):
        assert f"| `{spec.name}` |" in text and spec.meaning
    assert all(spec.limits for spec in INPUTS)
