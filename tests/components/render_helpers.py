"""Meshes and in-process workers for the tests of rendering."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from components.render.job import RenderReport, render_dataset
from components.render.pool import TaskResult, run_one
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.errors import InputError
from get3d_model.mesh_io import save_mesh
from get3d_model.types import TexturedMesh
from tests.components.render_fakes import make_fake_renderer

PIXELS = PixelSettings(views=3, resolution=32, supersample=1)
BOTH = {"layout": "both", "category": "animals"}


def save_fan(path: Path, number: int = 0, **extras: str) -> None:
    """A fan with `number` + 3 corners; its extras may ask for trouble."""
    angle_V = np.linspace(0, 2 * np.pi, number + 3, endpoint=False)
    vertices_V3 = np.stack([np.cos(angle_V), np.sin(angle_V), 0.3 * np.cos(2 * angle_V)], axis=1)
    faces_F3 = np.array([[0, i, i + 1] for i in range(1, number + 2)], np.int32)
    vertices_V3 = vertices_V3.astype(np.float32)
    texture = np.full((4, 4, 3), 40 * number % 256, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mesh(TexturedMesh(vertices_V3, faces_F3, vertices_V3[:, :2].copy(), texture, dict(extras)), path)


def render_in_process(monkeypatch: object) -> Iterator[None]:
    """For tests of what is done with the results: tasks run here, because workers take seconds to start."""

    def run_here(tasks, make_handler, workers, task_timeout_s, memory_limit=None):
        handler = make_handler()
        for task in tasks:
            kind, text = run_one(handler, task)
            if kind == "fatal":
                raise InputError(text)
            yield TaskResult(task, None if kind == "done" else text)

    monkeypatch.setattr("components.render.job.run_tasks", run_here)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # a worker has one


def render(
    meshes: Path,
    out: Path,
    slow_s: float = 0.0,
    log: Path | None = None,
    version: str = "fake-1",
    **options: object,
) -> RenderReport:
    """With a renderer that paints what it is asked for, and two workers."""
    options = {"pixels": PIXELS, "workers": 2, "shapes_per_shard": 2, **options}
    renderer = functools.partial(make_fake_renderer, slow_s=slow_s, log=log)
    return render_dataset(RenderOptions(meshes, out, **options), renderer, version)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
