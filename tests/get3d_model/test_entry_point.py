"""How commands end: each case in a process of its own, as a shell or Kubernetes sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ADVICE = "make space or access, then run the same command again\n"
FULL = f"cannot be written or read (No space left on device); {ADVICE}"
LARGE = f"cannot be written or read (File too large); {ADVICE}"
OTHER_PATH = "a file stands where a folder is wanted, or a folder where a file is: give another path\n"
# What a process may write to a file is limited here, as a disk is elsewhere.
LIMITED = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
COMMAND = """
import resource, signal, sys
from pathlib import Path
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic
class Saved(KeyboardInterrupt):
    signal_number = 15
def run(args):
    {body}
main = command_main("get3d thing", "Does a thing.", lambda parser: parser.add_argument("--size", type=int), run)
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("assert args.size == 3", 0, ""),
        ("raise InputError('--size must be even, not 3')", 2, "get3d thing: --size must be even, not 3\n"),
        ("open('/dev/full', 'wb', buffering=0).write(b'x')", 2, f"get3d thing: a file {FULL}"),
        (
            f"{LIMITED}; write_bytes_atomic(Path('model.bin'), bytes(99))",
            2,
            f"get3d thing: model.bin {LARGE}",
        ),
        (
            "Path('file').touch(); write_bytes_atomic(Path('file/model.bin'), b'')",
            2,
            f"get3d thing: file: File exists; {OTHER_PATH}",
        ),
        (
            "Path('folder').mkdir(); write_bytes_atomic(Path('folder'), b'')",
            2,
            f"get3d thing: folder: Is a directory; {OTHER_PATH}",
        ),
        ("raise KeyboardInterrupt", 130, "get3d thing: interrupted\n"),
        ("raise Saved('saved at kimg 5')", 143, "get3d thing: saved at kimg 5\n"),
        ("sys.exit('the server failed')", 1, "the server failed\n"),
        ("sys.exit(7)", 7, ""),
    ],
)
def test_the_exit_code_and_the_one_line(
    body: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    done = run_command(body, "--size", "3")
    assert (done.returncode, done.stderr) == (code, said)


def test_a_bug_keeps_its_traceback() -> None:
    done = run_command("raise ZeroDivisionError", "--size", "3")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_wrong_words_are_the_parsers_to_refuse() -> None:
    done = run_command("pass", "--size", "three")
    assert done.returncode == 2 and "get3d thing: error: argument --size" in done.stderr


def run_command(body: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(body=body), *words], capture_output=True, text=True, timeout=60
    )
