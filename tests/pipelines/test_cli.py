"""The `get3d` command: help, exit codes, one line for the user's errors."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys

import pytest

from get3d_model.errors import InputError
from pipelines import cli, doctor


def options_of(command: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    importlib.import_module(cli.COMMANDS[command][0]).add_arguments(parser)
    return parser._actions


def exit_code(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return stopped.value.code


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command, "--help"]) == 0
    output = capsys.readouterr().out
    assert f"usage: get3d {command}" in output
    for action in options_of(command):
        assert action.help, f"{action.dest} has no help text"
        for option in action.option_strings:
            assert option in output
    assert "%(" not in output


@pytest.mark.parametrize(
    "command",
    [[name] for name in cli.COMMANDS] + [["pipeline", action] for action in ("compile", "run", "submit")],
)
def test_help_shows_only_defaults_that_say_something(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code([*command, "--help"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for nothing in ("(default: None)", "(default: [])", "(default: )", "(default: True)"):
        assert nothing not in output


def test_unknown_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["trian"]) == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err
    assert exit_code([]) == 2
    assert exit_code(["train", "--nothing"]) == 2
    assert exit_code(["doctor", "extra"]) == 2


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def run(args: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(doctor, "run", run)
    return cli.main(["doctor"])


def test_bad_input_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(InputError("x.glb: broken; repair it"), monkeypatch) == 2
    assert capsys.readouterr() == ("", "get3d doctor: x.glb: broken; repair it\n")


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "get3d doctor: interrupted\n"


def test_our_own_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError(), monkeypatch)


def test_as_a_process() -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "evaluate",
        "--checkpoint",
        "no/such",
        "--data",
        "no/such",
    ]
    command += ["--meshes", "no/such", "--out", "no/such"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("get3d evaluate: no/such/manifest.json") and done.stderr.count("\n") == 1
