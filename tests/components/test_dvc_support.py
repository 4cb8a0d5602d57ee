"""What every step that calls DVC or git shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.dvc_support import one_line, pod_environment, without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://token@host/a.git", "https://host/a.git"),
        ("http://u:p@host:80/a", "http://host:80/a"),
        ("ssh://git@host:22/a.git", "ssh://git@host:22/a.git"),
        ("ssh://u:p@host/a", "ssh://u@host/a"),
        ("git@host:a.git", "git@host:a.git"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("fatal: https://u:p@host/x and https://t@host/y", "fatal: https://host/x and https://host/y"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown
    assert one_line(RuntimeError(f"no:\n {text}")) == f"no: {shown}"


def test_the_cause_of_an_error_is_told() -> None:
    error = RuntimeError("cannot transfer")
    error.__cause__ = OSError("connection refused")
    assert one_line(error) == "cannot transfer: connection refused"


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "ada")
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    before = dict(os.environ)
    with pod_environment(tmp_path / "state"):
        assert (os.environ["HOME"], os.environ["USER"]) == (str(home), "ada")
        assert "GIT_DIR" not in os.environ
        assert os.popen("git config user.name").read().strip() == "Ada"
        assert os.popen("git config user.email").read().strip() == "ada@example.org"
    assert dict(os.environ) == before
