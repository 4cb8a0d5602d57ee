"""Logs of long jobs: plain lines on a terminal, one JSON object per line everywhere else.

    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "command": "train", "run_id": "...", "step": 12, "message": "..."}

GET3D_LOG_FORMAT is text, json or auto (unless given): by whether standard output is a terminal. GET3D_RUN_ID names the
run; without it the launcher's id is taken, or one is made up. The one line that says why a command failed stays plain
on standard error; here it is a record of level `error` as well.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from get3d_model.errors import InputError

FORMAT = "GET3D_LOG_FORMAT"
RUN_ID = "GET3D_RUN_ID"
FORMATS = ("auto", "text", "json")


class Log:
    """What every record of one command says. step: asked when a record is written; None: not known yet."""

    def __init__(self, command: str, run_id: str) -> None:
        self.command, self.run_id = command, run_id
        self.step: Callable[[], int | None] = lambda: None

    def record(self, message: str, level: str = "info") -> str:
        """One line of JSON, without its end."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {"time": now, "level": level, "command": self.command, "run_id": self.run_id}
        if (rank := os.environ.get("RANK", "")).isdecimal():
            fields["rank"] = int(rank)
        if (step := self.step()) is not None:
            fields["step"] = step
        # A file's name need not be UTF-8, and nothing can print such a one as it is.
        printable = message.encode(errors="replace").decode() == message
        return json.dumps({**fields, "message": message}, ensure_ascii=not printable)


class JsonLines(io.TextIOBase):
    """Standard output that makes a record of every line. Threads do not mix their lines."""

    def __init__(self, target: TextIO, log: Log) -> None:
        self._target, self._log = target, log
        self._partial: dict[int, str] = {}
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            thread = threading.get_ident()
            *lines, rest = (self._partial.pop(thread, "") + text).split("\n")
            if rest:
                self._partial[thread] = rest
            for line in filter(str.strip, lines):
                self._target.write(self._log.record(line.rstrip()) + "\n")
        return len(text)

    def finish(self, error: BaseException | None) -> None:
        """Writes what has no line end yet, and what the command failed with."""
        with self._lock:
            for rest in self._partial.values():
                self._target.write(self._log.record(rest) + "\n")
            self._partial.clear()
            if error is not None and not (isinstance(error, SystemExit) and not error.code):
                message = " ".join(str(error).split()) or type(error).__name__
                level = "warning" if isinstance(error, KeyboardInterrupt) else "error"
                self._target.write(self._log.record(message, level) + "\n")
            self._target.flush()

    def flush(self) -> None:
        self._target.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False


def wants_json(stream: TextIO) -> bool:
    """Raises InputError for a format that does not exist."""
    chosen = os.environ.get(FORMAT, "auto")
    if chosen not in FORMATS:
        raise InputError(f"{FORMAT} must be {', '.join(FORMATS)}, not {chosen!r}")
    return chosen == "json" or (chosen == "auto" and not stream.isatty())


@contextlib.contextmanager
def structured(command: str) -> Iterator[Log]:
    """Standard output of the block as records where that is wanted."""
    made = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    launcher = os.environ.get("TORCHELASTIC_RUN_ID")
    run_id = os.environ.get(RUN_ID) or (launcher if launcher not in (None, "", "none") else made)
    log = Log(command, run_id)
    if not wants_json(sys.stdout) or isinstance(sys.stdout, JsonLines):
        yield log
        return
    lines = JsonLines(sys.stdout, log)
    failed: BaseException | None = None
    try:
        with contextlib.redirect_stdout(lines):
            yield log
    except BaseException as error:
        failed = error
        raise
    finally:
        lines.finish(failed)


def plain(line: str) -> str:
    """A line for people: the message of a record, with what a launcher has put before it; other lines as they are."""
    start = line.find('{"time": ')
    if start < 0:
        return line
    try:
        return line[:start] + str(json.loads(line[start:])["message"])
    except (ValueError, KeyError, TypeError):
        return line
