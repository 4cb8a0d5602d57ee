"""`get3d pipeline run`: what it says, and how a run ends that fails at once. tests/e2e has whole runs."""

from __future__ import annotations

import io
import json
import logging
import threading
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.run_log import Chatter, Tee, Timeline, logged

CHATTER = """\
12:00:00.000 - INFO - Executing task 'render'
12:00:00.001 - INFO - Streamed logs:

    [KFP Executor 2026-01-01 12:00:00,100 INFO]: Looking for component `render` in --component_module_path `/tmp/x.py`
    [KFP Executor 2026-01-01 12:00:00,100 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {
                "config": "{"
            }
        }
    }
    {"this": "is the step's own line"}
    shard 0/3: 6 of them
    get3d render: the mesh folder x does not exist
    [KFP Executor 2026-01-01 12:00:01,000 INFO]: Wrote executor output file to /tmp/y.json.

12:00:01.000 - ERROR - Task 'render' finished with status FAILURE
--------------------------------------------------------------------------------
"""
TOLD = """\
12:00:00.000 - INFO - Executing task 'render'
    {"this": "is the step's own line"}
    shard 0/3: 6 of them
    get3d render: the mesh folder x does not exist
12:00:01.000 - ERROR - Task 'render' finished with status FAILURE
"""


def test_the_terminal_shows_what_the_steps_say() -> None:
    terminal, log = io.StringIO(), io.StringIO()
    tee = Tee(terminal, log, verbose=False)
    # As print and logging write: lines in pieces, and a record of several lines at once.
    for line in CHATTER.splitlines():
        tee.write("")
        tee.write(line)
        tee.write("\n")
    tee.write("12:00:02 - INFO - Task 'render' outputs:\n    part: Dataset( name='part',\n    uri='x' )\n")
    assert terminal.getvalue() == TOLD
    assert CHATTER in log.getvalue() and "Dataset(" in log.getvalue()


def test_colours_are_for_terminals() -> None:
    text = "12:00:00 - INFO - Executing task \x1b[96m'render'\x1b[0m\n"
    for is_terminal in (True, False):
        terminal, log = io.StringIO(), io.StringIO()
        terminal.isatty = lambda answer=is_terminal: answer  # type: ignore[method-assign]
        assert Tee(terminal, log, verbose=False).write(text) == len(text)
        assert ("\x1b" in terminal.getvalue()) == is_terminal
        assert log.getvalue() == "12:00:00 - INFO - Executing task 'render'\n"


def test_steps_that_run_at_once_do_not_silence_each_other() -> None:
    terminal = io.StringIO()
    tee = Tee(terminal, io.StringIO(), verbose=False)
    tee.write("    [KFP Executor x INFO]: Got executor_input:\n    {\n")
    other = threading.Thread(target=tee.write, args=("    said by the other step\n",))
    other.start()
    other.join()
    tee.write('        "inputs": {}\n    }\n    said by this one\n')
    assert terminal.getvalue() == "    said by the other step\n    said by this one\n"


def test_a_full_disk_takes_the_log_and_not_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with logged(Path("/dev/full"), Timeline(), verbose=False):
        print("    said on a full disk")
        logging.getLogger().info("Executing task 'render'")
    assert "said on a full disk\n" in capsys.readouterr().out


def test_unfinished_json_does_not_silence_for_ever() -> None:
    chatter = Chatter()
    assert not chatter.wanted("    [KFP Executor x INFO]: Got executor_input:")
    # A step that died before it printed them.
    assert chatter.wanted("    Traceback (most recent call last):")


def test_the_timeline_tells_what_ran_and_what_was_cached() -> None:
    timeline, logger = Timeline(), logging.getLogger("test-timeline")
    logger.setLevel(logging.INFO)
    logger.addFilter(timeline)
    logger.info("Executing task \x1b[96m'validate'\x1b[0m")
    logger.info("Task \x1b[96m'validate'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m")
    logger.info("Task train cache hit (key=0123); skipping execution.")
    logger.info("Executing task 'gate'")
    logger.info("Task 'gate' finished with status FAILURE")
    assert [(step["step"], step["state"]) for step in timeline.steps] == [
        ("validate", "SUCCESS"), ("train", "CACHED"), ("gate", "FAILURE"),
    ]  # fmt: skip
    assert [line.split()[:2] for line in timeline.describe().splitlines()][1] == ["train", "CACHED"]


def test_a_bad_value_ends_the_run_at_the_first_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With kfp's own runner and the real components: validation fails, and the exit handler records it."""
    command = ["pipeline", "run", "--params", "demo", "--workspace", str(tmp_path)]
    command += ["--run-id", "bad", "--nodes", "3"]
    assert cli.main(command) == 2
    out, err = capfd.readouterr()
    assert "get3d validate: training.batch_size 8 cannot be shared by 6 processes" in out
    assert "Traceback" not in out and "Got executor_input" not in out
    assert "'validate'" in err and "log.txt" in err
    folder = tmp_path / "runs" / "bad"
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["state"] == "FAILED" and outcome["training_job"] == "none running"
    steps = json.loads((folder / "steps.json").read_text())["steps"]
    assert [(step["step"], step["state"]) for step in steps] == [
        ("validate", "FAILURE"),
        ("finish", "SUCCESS"),
    ]
    assert "Got executor_input" in (folder / "log.txt").read_text()
    # What it says, that the same command continues, is true: the run's name is not used up.
    assert "the same command again continues" in err
    assert cli.main(command) == 2
    assert "'validate'" in capfd.readouterr().err
    outcome["state"] = "SUCCEEDED"
    (folder / "outcome.json").write_text(json.dumps(outcome))
    assert cli.main(command) == 2
    assert "is there already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "training.batchsize=1"], "unknown setting training.batchsize; did you mean batch_size?"),
        (["--run-id", "../../elsewhere"], "run_id must be at most 63 letters"),
        (["--params", "no-text.yaml"], "--params no-text.yaml: cannot be read"),
    ],
)
def test_settings_are_checked_before_anything_starts(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no-text.yaml").write_bytes(b"\xff\xfe")
    command = ["pipeline", "run", "--params", "demo", "--workspace", str(tmp_path / "a" / "ws"), *words]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["no-text.yaml"]
