"""A worker's Blender: one headless process that renders mesh after mesh, replaced when it crashes or hangs.

Shape legend: B views, H W image height and width, 4 RGBA channels (and the rows and columns of transforms)
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from components.render.blender.install import BlenderInstall
from components.render.blender.settings import BlenderSettings
from components.render.pool import FatalError
from components.render.settings import PixelSettings
from get3d_model.cameras import turntable
from get3d_model.data.base import decode_png
from get3d_model.errors import InputError
from get3d_model.mesh_io import save_mesh
from get3d_model.types import Camera, TexturedMesh

DRIVER = Path(__file__).with_name("driver.py")
# As in the driver.
MARK = b"get3d-blender "
SENSOR_MM = 32.0
# Part of every image's key: a change of driver or scene that changes pixels needs another one.
BLENDER_RENDERER_VERSION = "blender-1"
START_TIMEOUT_S = 120.0
FULL_DISK_BYTES = 2**20
# So that it is this client that stops a hanging Blender, and not the pool that stops the client.
SHARE_OF_TIME_LIMIT = 0.95
# What Blender and its importer say when all is well.
PROGRESS = re.compile(r"^(Fra:|Saved:|Time: )|Loading denoising kernels|\| INFO: ")
TAIL_LINES, TAIL_LETTERS = 3, 300
EEVEE_HINT = "Eevee needs a GPU that Blender can open without a display; use --engine cycles"


@dataclass
class _Process:
    """buffer: what was read of an answer that is not complete. log: what it says beside its answers."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]
    buffer: bytes = b""


class BlenderRenderer:
    """Renders meshes in one long-lived Blender.

    time_limit_s: for the pictures of one mesh. scratch: folder for files that pass between the two, made when needed.
    Starts on the first use, and again after it had to be stopped.
    software: after a picture by Eevee the name of the driver that draws on the processor; None with a GPU.
    """

    def __init__(
        self,
        install: BlenderInstall,
        settings: BlenderSettings,
        resolution: int,
        scratch: Path,
        time_limit_s: float,
        threads: int = 1,
    ) -> None:
        self._install = install
        self._settings = settings
        self._resolution = resolution
        self._scratch = scratch
        self._time_limit_s = time_limit_s
        self._threads = threads
        self._running: _Process | None = None
        self.software: str | None = None

    def start(self) -> None:
        """Raises InputError when Blender does not start, or is not the version of the settings."""
        if self._running is not None:
            return
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        # It is emptied before every mesh, and Blender must go on writing at its beginning then.
        fcntl.fcntl(log, fcntl.F_SETFL, fcntl.fcntl(log, fcntl.F_GETFL) | os.O_APPEND)
        settings = self._settings
        arguments = [os.getpid(), settings.engine, settings.samples, self._threads]
        # Without this Python would look for modules beside the driver first.
        environment = os.environ | {"PYTHONSAFEPATH": "1"}
        process = subprocess.Popen(
            [*self._install.command, str(DRIVER), "--", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        self._running = _Process(process, log)
        hello = self._answer(time.monotonic() + START_TIMEOUT_S, "starting")
        if hello.get("version") != settings.version:
            self.close()
            reason = hello.get("error", f"it is version {hello.get('version')}, not {settings.version}")
            raise InputError(f"Blender ({self._install.where}) cannot be used: {reason}")

    def render(self, mesh: TexturedMesh, camera: Camera) -> np.ndarray:
        """BHW4 uint8: sRGB with straight alpha, row 0 the top; (0, 0, 0, 0) where nothing is.

        Raises InputError, with Blender's last words, when it fails, crashes or takes too long: the next mesh gets
        a new process. FatalError when the scratch folder cannot be written.
        """
        deadline = time.monotonic() + self._time_limit_s
        self.start()
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(dir=self._scratch)
        except OSError as error:
            raise FatalError(f"{self._scratch} cannot be written ({error.strerror})") from error
        with folder as name:
            path = Path(name) / "mesh.glb"
            pictures = [Path(name) / f"{view:03d}.png" for view in range(len(camera))]
            cam2world_B44 = torch.linalg.inv(camera.world2cam_B44.detach().cpu().double())
            request = {
                "mesh": str(path),
                "cameras": cam2world_B44.tolist(),
                # The projection's first entry is 1 / tan(half the field of view).
                "lens_mm": float(camera.projection_44[0, 0]) * SENSOR_MM / 2.0,
                "resolution": self._resolution,
                "pictures": [str(picture) for picture in pictures],
            }
            try:
                save_mesh(mesh, path)
            except OSError as error:
                raise FatalError(f"{self._scratch} cannot be written ({error.strerror})") from error
            answer = self._ask(request, deadline)
            try:
                if "error" in answer:
                    raise InputError(f"Blender could not render it: {answer['error']}")
                rgba_BHW4 = np.stack([_read(picture) for picture in pictures])
            except InputError as error:
                # On a full disk Blender writes half a picture and says nothing.
                if shutil.disk_usage(self._scratch).free < FULL_DISK_BYTES:
                    raise FatalError(
                        f"{self._scratch} is full; make space or set TMPDIR to another folder"
                    ) from error
                raise
            self.software = answer["software"]
            return rgba_BHW4

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._running is not None:
            running, self._running = self._running, None
            running.process.kill()
            running.process.wait()
            for stream in (running.process.stdin, running.process.stdout, running.log):
                # What could not be sent any more is of no interest.
                with contextlib.suppress(OSError):
                    stream.close()

    def _ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        running = self._running
        os.ftruncate(running.log.fileno(), 0)  # it would grow for days
        try:
            running.process.stdin.write(json.dumps(request).encode() + b"\n")
            running.process.stdin.flush()
        except OSError:
            pass  # it is dead, which shows in `_answer`
        return self._answer(deadline, "rendering it")

    def _answer(self, deadline: float, doing: str) -> dict[str, Any]:
        """The next answer. Raises InputError when the process ends or the deadline passes before it comes."""
        running = self._running
        stdout = running.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while True:
                line, end, rest = running.buffer.partition(b"\n")
                if end:
                    running.buffer = rest
                    # Blender greets on stdout before the driver runs.
                    if line.startswith(MARK):
                        return json.loads(line.removeprefix(MARK))
                    continue
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    limit = f"{START_TIMEOUT_S if doing == 'starting' else self._time_limit_s:g} s"
                    fix = "" if doing == "starting" else "; raise --mesh-timeout or lower --samples"
                    self._fail(f"took longer than {limit} {doing}{fix}")
                chunk = os.read(stdout.fileno(), 1 << 16)
                if not chunk:
                    code = running.process.wait()
                    how = (
                        f"crashed with {signal.Signals(-code).name}"
                        if code < 0
                        else f"ended with code {code}"
                    )
                    self._fail(f"{how} while {doing}")
                running.buffer += chunk

    def _fail(self, what: str) -> None:
        self._running.log.seek(0)
        lines = self._running.log.read()[-65536:].decode(errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip() and not PROGRESS.search(line)]
        said = " / ".join(lines[-TAIL_LINES:])[-TAIL_LETTERS:]
        self.close()
        raise InputError(f"Blender {what}" + (f"; it said: {said}" if said else ""))


def _read(path: Path) -> np.ndarray:
    """HW4 uint8 of a picture from Blender."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"Blender wrote no picture ({error.strerror})") from error
    rgba_HW4 = decode_png(content, lambda: "Blender's picture")
    return np.where(rgba_HW4[..., 3:] > 0, rgba_HW4, np.uint8(0))


def blender_renderer_factory(
    install: BlenderInstall, scratch: Path, mesh_timeout_s: float
) -> Callable[[PixelSettings], Callable[[TexturedMesh, Camera], np.ndarray]]:
    """For `render_dataset`: picklable, called in every worker with settings that have `blender`.

    scratch: a folder for files that pass between the workers and their Blenders; who calls this removes it.
    """
    return functools.partial(_make, install, Path(scratch), mesh_timeout_s * SHARE_OF_TIME_LIMIT)


def _make(
    install: BlenderInstall, scratch: Path, time_limit_s: float, settings: PixelSettings
) -> Callable[[TexturedMesh, Camera], np.ndarray]:
    renderer = BlenderRenderer(install, settings.blender, settings.resolution, scratch, time_limit_s)
    renderer.start()
    return renderer.render


def check_eevee(install: BlenderInstall, settings: BlenderSettings) -> str | None:
    """Draws one small picture in a Blender of its own. Raises InputError when that fails, as without a GPU.

    Returns a warning for the log when it works but slowly.
    """
    vertices_V3 = np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0]], np.float32)
    triangle = TexturedMesh(
        vertices_V3,
        np.array([[0, 1, 2]], np.int32),
        vertices_V3[:, :2].copy(),
        np.full((2, 2, 3), 200, np.uint8),
    )
    with tempfile.TemporaryDirectory() as scratch:
        renderer = BlenderRenderer(install, settings, 8, Path(scratch), START_TIMEOUT_S)
        try:
            rgba_BHW4 = renderer.render(triangle, turntable(1))
        except InputError as error:
            raise InputError(f"{EEVEE_HINT} ({error})") from error
        finally:
            renderer.close()
    if not rgba_BHW4[..., 3].any():
        raise InputError(f"{EEVEE_HINT} (its picture is empty)")
    if renderer.software is None:
        return None
    return f"Eevee found no GPU and draws on the processor ({renderer.software}); --engine cycles is quicker there"
