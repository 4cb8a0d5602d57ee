"""Records of long jobs: whole lines, with run id and step, also of a real `get3d train`; people see the plain line."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from get3d_model.errors import InputError
from monitoring import logs
from tests.get3d_model.training.tiny import run, tiny_config, train_command, write_params


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def automatic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What has been written since, to standard output that is no terminal."""
    for name in ("TORCHELASTIC_RUN_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(logs.FORMAT, "auto")
    monkeypatch.setenv(logs.RUN_ID, "run-7")
    return lambda: capsys.readouterr().out


def records(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_a_record(automatic: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with logs.structured("train") as log:
        print("before")
        log.step = lambda: 12
        print("kimg", end=" ")
        print('0.1 "ä"\n\nnext')
        print("no end", end="")
    found = records(automatic())
    assert [r["message"] for r in found] == ["before", 'kimg 0.1 "ä"', "next", "no end"]
    assert [r.get("step") for r in found] == [None, 12, 12, 12]
    assert {(r["command"], r["run_id"], r["rank"], r["level"]) for r in found} == {
        ("train", "run-7", 1, "info")
    }
    assert all(str(r["time"]).endswith("Z") for r in found)


def test_odd_names_and_surroundings_end_nothing(
    automatic: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder whose name is no UTF-8, and a variable of somebody else's launcher."""
    monkeypatch.setenv("RANK", "first")
    folder = os.fsdecode(b"out-\xff")
    with logs.structured("serve"):
        print(folder)
    (record,) = records(automatic())
    assert os.fsencode(str(record["message"])) == b"out-\xff" and "rank" not in record
    logs.Log("serve", "x").record(folder).encode()


def test_what_a_command_failed_with_is_a_record(automatic: Callable[[], str]) -> None:
    with pytest.raises(InputError), logs.structured("train"):
        raise InputError("no\nsuch file")
    with pytest.raises(SystemExit), logs.structured("serve"):
        raise SystemExit(0)
    assert [(r["level"], r["message"]) for r in records(automatic())] == [("error", "no such file")]


def test_a_terminal_and_text_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen, stream in (("auto", Terminal()), ("text", io.StringIO())):
        monkeypatch.setenv(logs.FORMAT, chosen)
        monkeypatch.setattr(sys, "stdout", stream)
        with logs.structured("train"):
            print("kimg 1")
        assert stream.getvalue() == "kimg 1\n"
    monkeypatch.setenv(logs.FORMAT, "xml")
    with (
        pytest.raises(InputError, match="GET3D_LOG_FORMAT must be auto, text, json, not 'xml'"),
        logs.structured("x"),
    ):
        pass


def test_threads_do_not_mix_their_lines(automatic: Callable[[], str]) -> None:
    with logs.structured("train"):
        threads = [
            threading.Thread(target=lambda word=word: [print(word, word, word) for _ in range(200)])
            for word in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    messages = [r["message"] for r in records(automatic())]
    assert len(messages) == 400 and set(messages) == {"a a a", "b b b"}


def test_people_see_the_message() -> None:
    record = logs.Log("train", "x").record('say "hi"')
    assert logs.plain(record) == 'say "hi"' and logs.plain(f"[0]:{record}") == '[0]:say "hi"'
    for line in ("kimg 1", '{"time": broken', '{"other": 1}'):
        assert logs.plain(line) == line


@pytest.mark.e2e
def test_a_real_training_away_from_a_terminal(tiny_data: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_config(2))
    command = train_command(params, tiny_data, tmp_path / "out")
    done = run(command, GET3D_LOG_FORMAT="auto", GET3D_RUN_ID="run-9")
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert {r["run_id"] for r in found} == {"run-9"} and found[-1]["message"].startswith("finished: ")
    assert [r["step"] for r in found if str(r["message"]).startswith("kimg ")] == [1, 2]
