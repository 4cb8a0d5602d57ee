"""Renders one mesh in a worker process: mesh file in, tar piece with all its views out.

Shape legend: B views, H W image height and width, 4 RGBA channels
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from components.render.inputs import view_angles
from components.render.pool import FatalError
from components.render.settings import PixelSettings
from get3d_model.cameras import orbit_camera, turntable
from get3d_model.data.base import View, polar_angles_rad
from get3d_model.data.shards import encode_piece
from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic
from get3d_model.mesh_io import load_textured_mesh, normalize
from get3d_model.png import small_png
from get3d_model.rendering.batch_renderer import MAX_SAMPLES, BatchRenderer
from get3d_model.rendering.mesh_renderer import MeshRenderer
from get3d_model.rendering.select import make_rasterizer
from get3d_model.types import Camera, TexturedMesh

# Pictures held at a time, so that memory does not grow with the views.
BYTES_PER_CALL = 2**28

# Part of every image's key: a change of loader or renderer that changes pixels needs another one.
RENDERER_VERSION = "raster-3"
# Nearly every pixel is the same, but not every byte.
CUDA_RENDERER_VERSION = "raster-cuda-1"
# What the rasteriser and the shading need for every sample that is rasterised at a time.
CUDA_BYTES_PER_SAMPLE = 64

# (mesh, camera) -> uint8 BHW4, straight alpha.
RenderFunction = Callable[[TexturedMesh, Camera], np.ndarray]


@dataclass(frozen=True)
class RenderTask:
    """piece: where the tar piece goes; its name is the key of the images. max_triangles: more are refused.

    root: the mesh folder, within which a material file may name pictures. scale: in place of the settings'.
    """

    shape_id: str
    path: Path
    piece: Path
    max_triangles: int = 5_000_000
    root: Path | None = None
    scale: float | None = None


def make_mesh_renderer(settings: PixelSettings) -> RenderFunction:
    """The project's own renderer on the processor."""
    rasterizer = make_rasterizer(torch.device("cpu"))
    # The first picture compiles the kernels; no mesh should have that counted as its own time.
    MeshRenderer(rasterizer, 8, 2, settings.lighting).render(_triangle(), turntable(1))
    return MeshRenderer(rasterizer, settings.resolution, settings.supersample, settings.lighting).render


def _triangle() -> TexturedMesh:
    vertices_V3 = np.eye(3, dtype=np.float32)
    return TexturedMesh(
        vertices_V3, np.array([[0, 1, 2]], np.int32), vertices_V3[:, :2].copy(), np.zeros((2, 2, 3), np.uint8)
    )


def make_cuda_renderer(workers: int, settings: PixelSettings) -> RenderFunction:
    """The project's own renderer on this machine's GPUs, of which every worker uses one. Raises InputError without.

    workers: that share the machine. Together they leave a third of the memory of every GPU free.
    """
    # Processes are numbered from 1 by multiprocessing in the order they start.
    number = multiprocessing.current_process()._identity
    devices = torch.cuda.device_count()
    device = torch.device("cuda", number[0] % devices if number and devices else 0)
    rasterizer = make_rasterizer(device)
    torch.cuda.set_device(device)
    share = torch.cuda.get_device_properties(device).total_memory * 2 // 3 // max(1, -(-workers // devices))
    samples = max(1 << 20, min(MAX_SAMPLES, share // CUDA_BYTES_PER_SAMPLE))
    renderer = BatchRenderer(
        rasterizer, settings.resolution, settings.supersample, settings.lighting, device, samples
    )
    renderer.render(_triangle(), turntable(1))  # compiles the kernel
    return renderer.render


def make_handler(
    settings: PixelSettings, make_renderer: Callable[[PixelSettings], RenderFunction]
) -> Callable[[RenderTask], None]:
    """Called once in every worker process; returns what handles a task."""
    torch.set_num_threads(1)
    render = make_renderer(settings)
    small_png(
        np.zeros((1, 1, 4), np.uint8)
    )  # compiles its kernel, which no mesh should have counted as its own time

    def handle(task: RenderTask) -> None:
        try:
            views = render_shape(task, settings, render)
            piece = encode_piece(task.shape_id, views, settings.cameras.radius, settings.fov_deg)
        except InputError as error:
            # The report names the file beside the reason, relative to the mesh folder.
            raise InputError(str(error).removeprefix(f"{task.path}: ")) from error
        try:
            write_bytes_atomic(task.piece, piece)
        except OSError as error:
            raise FatalError(
                f"{task.piece.parent} cannot be written ({error.strerror}); make space or access"
            ) from error

    return handle


def render_shape(task: RenderTask, settings: PixelSettings, render: RenderFunction) -> Iterator[View]:
    """Yields all views of a mesh. Raises InputError for a mesh that cannot be read or shows nothing."""
    mesh = load_textured_mesh(task.path, task.root)
    if len(mesh.faces_F3) > task.max_triangles:
        raise InputError(
            f"has {len(mesh.faces_F3)} triangles, more than {task.max_triangles};"
            " simplify it or raise --max-triangles"
        )
    mesh = normalize(settings.axes.turn(mesh), settings.scale if task.scale is None else task.scale)
    angles = view_angles(task.shape_id, settings.views, settings.seed, settings.cameras)
    radians_B2 = torch.from_numpy(
        polar_angles_rad(
            np.array([view.rotation_deg for view in angles]),
            np.array([view.elevation_deg for view in angles]),
        )
    )
    cameras = settings.cameras
    camera = orbit_camera(
        radians_B2[:, 0], radians_B2[:, 1], cameras.radius, math.radians(cameras.field_of_view_deg)
    )
    step = max(1, BYTES_PER_CALL // (4 * settings.resolution**2))
    visible = False
    for first in range(0, settings.views, step):
        rgba_BHW4 = render(mesh, camera[first : first + step])
        visible = visible or bool(rgba_BHW4[..., 3].any())
        for rgba_HW4, view in zip(rgba_BHW4, angles[first : first + step], strict=True):
            yield View(rgba_HW4, view.rotation_deg, view.elevation_deg)
    if not visible:
        raise InputError("none of its triangles is visible from any camera; a mesh needs an area")
