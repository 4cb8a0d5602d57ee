"""What a pipeline run on this machine says: all of it to a file, what a person wants to see to the terminal."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from monitoring.logs import plain

COLOUR = re.compile(r"\x1b\[\d+m")
_STARTED = re.compile(r"Executing task '([^']+)'")
_FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
_CACHED = re.compile(r"Task (\S+) cache hit")
_TOLD = re.compile(r"Executing task|finished with status|cache hit|Retrying|Skipping")
_RECORD = re.compile(r"\d\d:\d\d:\d\d(\.\d+)? - [A-Z]+ - ")


class Timeline(logging.Filter):
    """Reads kfp's own log as it comes: which steps ran, for how long, and which were taken from the cache.

    Steps of one name that run at the same time are told apart by their thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self._running: dict[tuple[str, int], tuple[dict[str, Any], float]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        text = COLOUR.sub("", record.getMessage())
        with self._lock:
            if match := _CACHED.match(text):
                self.steps.append({"step": match[1], "state": "CACHED", "seconds": 0.0})
            elif match := _STARTED.match(text):
                step = {"step": match[1], "state": "RUNNING", "seconds": 0.0}
                self.steps.append(step)
                self._running[match[1], threading.get_ident()] = step, time.monotonic()
            elif match := _FINISHED.match(text):
                step, started = self._running.pop((match[1], threading.get_ident()), ({}, time.monotonic()))
                step |= {"state": match[2], "seconds": round(time.monotonic() - started, 2)}
        return True

    def describe(self) -> str:
        """One line per step, in the order in which they began."""
        return "\n".join(f"  {s['step']:<16} {s['state']:<8} {s['seconds']:8.1f} s" for s in self.steps)


class Chatter:
    """Tells which lines of one step are kfp's about itself: its own log, and the step's inputs as JSON."""

    def __init__(self) -> None:
        self._indent: int | None = None
        self._awaits_json = False

    def wanted(self, line: str) -> bool:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if self._indent is not None:
            if text == "}" and indent <= self._indent:
                self._indent = None
            return False
        if self._awaits_json:
            self._awaits_json = False
            if text == "{":
                self._indent = indent
                return False
        if text.startswith("[KFP Executor"):
            self._awaits_json = text.endswith("Got executor_input:")
            return False
        if _RECORD.match(text):
            return bool(_TOLD.search(COLOUR.sub("", text))) or " - INFO - " not in text
        return bool(text) and not text.startswith("-----")


class Tee:
    """Standard output during a run. Every thread that writes follows a step of its own. Colours are for terminals."""

    def __init__(self, terminal: TextIO, log: TextIO, verbose: bool) -> None:
        self._terminal, self._log, self._verbose = terminal, log, verbose
        self._coloured = terminal.isatty()
        self._threads: dict[int, tuple[list[str], Chatter]] = {}
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        self._write(text if self._coloured else COLOUR.sub("", text))
        return len(text)

    def _write(self, text: str) -> None:
        with self._lock:
            self._record(COLOUR.sub("", text))
            if self._verbose:
                self._terminal.write(text)
                return
            partial, chatter = self._threads.setdefault(threading.get_ident(), ([], Chatter()))
            first = text.partition("\n")[0]
            if _RECORD.match(COLOUR.sub("", first)) and first.endswith("outputs:"):
                return  # a record of many lines: the outputs, which kfp repeats
            *lines, rest = ("".join(partial) + text).split("\n")
            partial[:] = [rest]
            for line in map(plain, lines):
                if chatter.wanted(line):
                    self._terminal.write(line + "\n")

    def flush(self) -> None:
        with self._lock:
            self._record("")
            self._terminal.flush()

    def _record(self, text: str) -> None:
        # A full disk is for the steps to say; the terminal still has what they say.
        with contextlib.suppress(OSError):
            self._log.write(text)
            self._log.flush()

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    log = open(path, "a")  # noqa: SIM115
    try:
        yield log
    finally:
        with contextlib.suppress(OSError):
            log.close()


@contextlib.contextmanager
def logged(path: Path, timeline: Timeline, verbose: bool) -> Iterator[None]:
    """Sends kfp's log and the steps' output to the file `path` and, as far as it is wanted, to the terminal."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    with _opened(path) as log:
        tee = Tee(sys.stdout, log, verbose)
        handler = logging.StreamHandler(tee)
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s", "%H:%M:%S"))
        root.setLevel(logging.INFO)
        root.handlers[:] = [handler]
        root.addFilter(timeline)
        try:
            with contextlib.redirect_stdout(tee):
                yield
        finally:
            root.removeFilter(timeline)
            root.setLevel(level)
            root.handlers[:] = handlers
