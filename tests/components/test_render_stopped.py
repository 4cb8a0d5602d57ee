"""A run that is stopped, at whatever moment, is continued by the same command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components.render import assembly
from components.render.folder import OutputFolder
from components.render.job import RenderStopped
from tests.components.render_helpers import BOTH, PIXELS, files, render, render_in_process, save_fan

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from render_in_process(monkeypatch)


SCRIPT = """
import functools, sys
from pathlib import Path
from components.render.job import RenderStopped, render_dataset
from components.render.pool import TaskResult, run_one
from components.render.settings import PixelSettings, RenderOptions
from tests.components.render_fakes import make_fake_renderer
pixels = PixelSettings(views=3, resolution=32, supersample=1)
options = RenderOptions(Path(sys.argv[1]), Path(sys.argv[2]), pixels, workers=2, shapes_per_shard=2)
try:
    render_dataset(options, functools.partial(make_fake_renderer, slow_s=0.7), "fake-1")
except RenderStopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(128 + stopped.signal_number)
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _pieces(out: Path) -> int:
    return sum(not path.name.startswith(".") for path in (out / ".partial/pieces").glob("*.piece"))


def _stop_after_the_next_piece(meshes: Path, out: Path, signum: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(meshes), str(out)]
    run = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore it, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    before = _pieces(out)
    while _pieces(out) == before:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.02)
    children = _children(run.pid)
    assert len(children) >= 2
    if signum == signal.SIGKILL:
        run.kill()
        _, text = run.communicate()
        assert run.returncode == -signum
    else:
        os.killpg(run.pid, signum)  # as a terminal does
        _, text = run.communicate()
        assert run.returncode == 128 + signum
        assert text.endswith("rendering stopped; the same command continues where it was\n")
        assert "Traceback" not in text
    while any(_alive(pid) for pid in children):  # the orphans of a killed run notice by themselves
        time.sleep(0.02)
    assert [path.name for path in out.iterdir()] == [".partial"]


@pytest.mark.e2e
def test_a_stopped_run_continues(tmp_path, in_process):
    # Many: the run must still be under way when it is stopped.
    for number in range(24):
        save_fan(tmp_path / f"meshes/m{number}.glb", number)
    out = tmp_path / "out"
    for signum in (signal.SIGKILL, signal.SIGINT):
        _stop_after_the_next_piece(tmp_path / "meshes", out, signum)
    done = _pieces(out)
    assert 2 <= done < 24
    report = render(tmp_path / "meshes", out)
    assert (report.rendered, report.reused) == (24 - done, done)
    render(tmp_path / "meshes", tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")


def test_sigterm_stops_a_run_as_a_scheduler_expects(fans, tmp_path, monkeypatch):
    def run_here(*args):
        signal.raise_signal(signal.SIGTERM)
        yield

    monkeypatch.setattr("components.render.job.run_tasks", run_here)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RenderStopped, match="the same command continues") as caught:
        render(fans, tmp_path / "out")
    assert caught.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("moment", ["assembling", "manifest staged", "moving"])
def test_a_run_stopped_after_rendering_continues(
    fans_rendered, fans, tmp_path, monkeypatch, in_process, moment
):
    out = tmp_path / "out"
    shutil.copytree(fans_rendered, out)
    before = files(out)
    owner, name, stops_at = {
        "assembling": (assembly, "_publish", lambda root, category, shape_id, piece: shape_id == "cow"),
        "manifest staged": (OutputFolder, "commit", lambda folder: True),
        "moving": (os, "replace", lambda source, target: str(source).endswith(".partial/out/camera")),
    }[moment]
    original = getattr(owner, name)

    def stop(*args):
        if stops_at(*args):
            raise KeyboardInterrupt
        return original(*args)

    options = {**BOTH, "pixels": replace(PIXELS, seed=1)}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, stop)
        render(fans, out, **options)
    if moment == "moving":
        assert not (out / "manifest.json").exists()
    else:
        finished = {name: content for name, content in files(out).items() if not name.startswith(".partial")}
        assert finished == before
    log = tmp_path / "log"
    render(fans, out, log=log, **options)
    assert not log.exists()  # nothing was rendered again
    render(fans, tmp_path / "fresh", **options)
    assert files(out) == files(tmp_path / "fresh")
