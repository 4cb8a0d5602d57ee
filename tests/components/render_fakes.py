"""Top-level functions that worker processes of the tests import; nearly none of them needs the real renderer."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from get3d_model.errors import InputError


def make_task_handler() -> Callable[[tuple[str, float | str]], None]:
    """Tasks are (what to do, argument)."""
    return _handle


def _handle(task: tuple[str, float | str]) -> None:
    from components.render.pool import FatalError

    kind, argument = task
    if kind == "sleep":
        time.sleep(argument)
    elif kind == "write":
        Path(argument).write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")
    elif kind == "bad":
        raise InputError(argument)
    elif kind == "bug":
        raise KeyError(argument)
    elif kind == "memory":
        raise MemoryError
    elif kind == "hog":
        hoard = []
        while len(hoard) * 20 < argument:  # MB
            hoard.append(np.ones(20 * 10**6, np.uint8))
            time.sleep(0.02)
    elif kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "segfault":
        ctypes.string_at(0)
    elif kind == "exit":
        os._exit(argument)
    elif kind == "fatal":
        raise FatalError(argument)


def make_nothing() -> Callable[[object], None]:
    raise InputError("no such device")


def make_broken() -> Callable[[object], None]:
    raise ZeroDivisionError("a bug")


def make_dying() -> Callable[[object], None]:
    os._exit(7)


def make_fake_renderer(
    settings: object, slow_s: float = 0.0, log: Path | None = None
) -> Callable[..., np.ndarray]:
    """Pictures that depend on the mesh and the camera. A mesh's extras may ask for trouble."""
    return functools.partial(_draw, settings.resolution, slow_s, log)


def _make_trouble(mesh: object) -> None:
    trouble = mesh.extras.get("trouble")
    if trouble == "segfault":
        ctypes.string_at(0)
    elif trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif trouble == "hang":
        time.sleep(60)
    elif trouble == "bug":
        raise IndexError("index 7 is out of bounds")


def make_real_renderer(settings: object) -> Callable[..., np.ndarray]:
    """The renderer that `get3d render` uses, for meshes whose extras may ask for trouble."""
    from components.render.worker import make_mesh_renderer

    render = make_mesh_renderer(settings)

    def draw(mesh: object, camera: object) -> np.ndarray:
        _make_trouble(mesh)
        return render(mesh, camera)

    return draw


def _draw(resolution: int, slow_s: float, log: Path | None, mesh: object, camera: object) -> np.ndarray:
    time.sleep(slow_s)
    if log is not None:
        with open(log, "a") as handle:
            handle.write("render\n")
    _make_trouble(mesh)
    rgba_BHW4 = np.zeros((len(camera), resolution, resolution, 4), np.uint8)
    if mesh.extras.get("trouble") == "invisible":
        return rgba_BHW4
    # A splat of the vertices: cheap, and moves with the camera.
    points_V4 = np.c_[mesh.vertices_V3, np.ones(len(mesh.vertices_V3))]
    for picture_HW4, world2clip_44 in zip(rgba_BHW4, camera.world2clip_B44.double().numpy(), strict=True):
        clip_V4 = points_V4 @ world2clip_44.T
        pixel_V2 = (clip_V4[:, :2] / clip_V4[:, 3:] + 1) / 2 * resolution
        column_V, row_V = pixel_V2.astype(int).clip(0, resolution - 1).T
        picture_HW4[row_V, column_V] = [200, 100, len(mesh.vertices_V3) % 256, 255]
    return rgba_BHW4
