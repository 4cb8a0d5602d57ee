"""SIGKILL while a version is recorded: nothing half is left, and the same command finishes it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.version.main import VERSION_FILE, VersionRequest, record_version
from tests.components.version_project import Project, check_version

# What changes something outside of the process, and so what being killed between could leave behind.
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.link", "shutil.rmtree", "subprocess.Popen")


def run_until(request: VersionRequest, stop_at: int, counter: Path) -> int:
    """Runs in a fork that kills itself before its write number `stop_at`; returns how the fork ended."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
            written = flags & (os.O_WRONLY | os.O_RDWR)
            if event in WRITES or written:
                count += 1
                if count == stop_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            record_version(request)
        except BaseException:
            os._exit(1)
        total = count
        counter.write_text(str(total))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_killed_at(project: Project, points: Callable[[int], list[int]]) -> None:
    counter = project.folder / "count"
    assert run_until(project.request("whole"), 0, counter) == 0
    total = int(counter.read_text())
    assert total > 50
    for number, point in enumerate(points(total)):
        request = project.request(f"k-{number}")
        assert run_until(request, point, counter) == -signal.SIGKILL, point
        # Either nothing is recorded, or all of it is.
        if request.run_id in (name.removeprefix("runs/") for name in project.branches()):
            check_version(project.bare, f"runs/{request.run_id}", project.folder)
        record_version(request)
        assert project.commits(f"runs/{request.run_id}") == 1
        assert (project.folder / "out" / VERSION_FILE).exists()
        check_version(project.bare, f"runs/{request.run_id}", project.folder)
        # So that the next one has to transfer again.
        shutil.rmtree(project.folder / "remote")
        (project.folder / "remote").mkdir()


def test_killed_and_run_again(project: Project) -> None:
    check_killed_at(project, lambda total: [round(total * part) for part in (0.2, 0.6, 0.95)])
