"""What every process of a training job runs: `get3d train`, tied to the life of the job.

torchrun starts it (`python -m components.train.rank`, with the arguments of `get3d train`). Beside training it

- says which rank it is, so that the launcher can name the rank that failed;
- takes the params file from the environment where the launcher put it there, for pods that do not see the file;
- stops, saved, when torchrun or the launcher on the same machine is gone: a killed job leaves no process behind;
- does not start a third time into the same error of the input, however many restarts torchrun has left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from components.train import output_lock
from components.train.main import add_arguments, run
from components.train.torchrun import end_with_torchrun
from get3d_model.entry_point import disk_errors, exit_code
from get3d_model.errors import InputError

PARAMS = "GET3D_PARAMS"
"""Environment variable with the content of the params file; `--config` then only names it."""
LAUNCHER = "GET3D_LAUNCHER"
"""Environment variable with the launcher's process id and start time, where it runs on the same machine."""
RANK_LINE = "this is rank {rank} of {size} (node {node}, local rank {local_rank})"
NAME = "get3d train"
ERROR_PREFIX = f"{NAME}: "
_POLL_S = 1.0


def process_identity(process: int) -> str | None:
    """Process id and start time, which together are never used twice; None where no such process lives."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else f"{process}:{fields[19]}"


def main(argv: list[str] | None = None) -> int:
    """Trains; returns the exit code, as the `get3d` command does."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    # See pipelines/cli.py.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    end_with_torchrun()
    lock = output_lock.join()
    if not _end_with_launcher() or lock is False:
        print(f"{ERROR_PREFIX}the launcher is gone; not starting", file=sys.stderr, flush=True)
        return 1
    environment = os.environ
    print(
        RANK_LINE.format(
            rank=environment.get("RANK", "0"),
            size=environment.get("WORLD_SIZE", "1"),
            node=environment.get("GROUP_RANK", "0"),
            local_rank=environment.get("LOCAL_RANK", "0"),
        ),
        flush=True,
    )
    attempts = _Attempts()
    try:
        attempts.check()
        with disk_errors(), _params_file(args.config) as args.config:
            run(args)
    except (InputError, KeyboardInterrupt) as error:
        if isinstance(error, InputError):
            attempts.remember(str(error))
        return exit_code(NAME, error)
    return 0


@contextlib.contextmanager
def _params_file(path: Path) -> Iterator[Path]:
    content = os.environ.get(PARAMS)
    if content is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="get3d-") as folder:
        written = Path(folder) / path.name
        written.write_text(content)
        yield written


def _end_with_launcher() -> bool:
    """Has torchrun end all its processes, saved, when the launcher goes. False when it is gone already."""
    launcher, torchrun = os.environ.get(LAUNCHER), os.getppid()
    if not launcher:
        return True

    def alive() -> bool:
        return process_identity(int(launcher.partition(":")[0])) == launcher

    def watch() -> None:
        while alive():
            time.sleep(_POLL_S)
        print(f"{ERROR_PREFIX}the launcher is gone; saving and stopping", file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(torchrun, signal.SIGTERM)

    if not alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(torchrun, signal.SIGTERM)
        return False
    # One process of a node sees to it.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        threading.Thread(target=watch, name="get3d-launcher-watch", daemon=True).start()
    return True


class _Attempts:
    """What this rank's earlier attempts under the same torchrun ended with, in files beside torchrun's own."""

    def __init__(self) -> None:
        error_file = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", ""))
        # .../attempt_2/0/error.json
        match = re.fullmatch(r"attempt_(\d+)", error_file.parent.parent.name)
        self._number = int(match[1]) if match else 0
        self._file = error_file.with_name("input_error.txt") if match else None

    def _message(self, number: int) -> str | None:
        if self._file is None or number < 0:
            return None
        path = (
            self._file.parent.parent.parent / f"attempt_{number}" / self._file.parent.name / self._file.name
        )
        try:
            return path.read_text()
        except OSError:
            return None

    def check(self) -> None:
        """Raises the InputError that the two attempts before both ended with."""
        last = self._message(self._number - 1)
        if last is not None and last == self._message(self._number - 2):
            raise InputError(last)

    def remember(self, message: str) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write_text(message)


if __name__ == "__main__":
    sys.exit(main())
