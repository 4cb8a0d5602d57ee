"""What every command does alike, for the tests of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def refusal(main: Callable[[list[str]], int], words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a command says on bad input: one, on standard error, with status 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("get3d ") and message.count("\n") == 1, message
    return message
