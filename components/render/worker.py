"""Renders one mesh in a worker process: mesh file in, tar piece with all its views out.

Shape legend: B views, H W image height and width, 4 RGBA channels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from components.render.inputs import view_angles
from components.render.pool import FatalError
from components.render.settings import FOV_DEG, PixelSettings
from get3d_model.cameras import ORBIT_RADIUS, orbit_camera
from get3d_model.data.base import View, polar_angles_rad
from get3d_model.data.shards import encode_piece
from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic
from get3d_model.mesh_io import load_textured_mesh, normalize
from get3d_model.types import Camera, TexturedMesh

# Samples (pixels times supersampling) rendered in one call, so that memory does not grow with the views.
SAMPLES_PER_CALL = 2**24

# Part of every image's key: a change of the renderer that changes pixels needs another one.
RENDERER_VERSION = "raster-1"

# (mesh, camera) -> uint8 BHW4, straight alpha.
RenderFunction = Callable[[TexturedMesh, Camera], np.ndarray]


@dataclass(frozen=True)
class RenderTask:
    """piece: where the tar piece goes; its name is the key of the images."""

    shape_id: str
    path: Path
    piece: Path


def make_mesh_renderer(settings: PixelSettings) -> RenderFunction:
    """The project's own renderer on the processor."""
    from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer

    from get3d_model.rendering.select import make_rasterizer

    rasterizer = make_rasterizer(torch.device("cpu"))
    renderer = MeshRenderer(rasterizer, settings.resolution, settings.supersample, Lighting())
    return lambda mesh, camera: np.asarray(renderer.render(mesh, camera))


def make_handler(
    settings: PixelSettings, make_renderer: Callable[[PixelSettings], RenderFunction]
) -> Callable[[RenderTask], None]:
    """Called once in every worker process; returns what handles a task."""
    torch.set_num_threads(1)
    render = make_renderer(settings)

    def handle(task: RenderTask) -> None:
        try:
            views = render_shape(task, settings, render)
        except InputError as error:
            # The report names the file beside the reason, relative to the mesh folder.
            raise InputError(str(error).removeprefix(f"{task.path}: ")) from error
        piece = encode_piece(task.shape_id, views, ORBIT_RADIUS, FOV_DEG)
        try:
            write_bytes_atomic(task.piece, piece)
        except OSError as error:
            raise FatalError(
                f"{task.piece.parent} cannot be written ({error.strerror}); make space or access"
            ) from error

    return handle


def render_shape(task: RenderTask, settings: PixelSettings, render: RenderFunction) -> list[View]:
    """All views of a mesh. Raises InputError for a mesh that cannot be read or shows nothing."""
    mesh = normalize(load_textured_mesh(task.path), settings.scale)
    angles = view_angles(task.shape_id, settings.views, settings.seed)
    rotation_deg_B = np.array([view.rotation_deg for view in angles])
    elevation_deg_B = np.array([view.elevation_deg for view in angles])
    radians_B2 = torch.from_numpy(polar_angles_rad(rotation_deg_B, elevation_deg_B))
    camera = orbit_camera(radians_B2[:, 0], radians_B2[:, 1])
    step = max(1, SAMPLES_PER_CALL // (settings.resolution * settings.supersample) ** 2)
    parts = [render(mesh, camera[first : first + step]) for first in range(0, settings.views, step)]
    rgba_BHW4 = np.concatenate(parts)
    if not rgba_BHW4[..., 3].any():
        raise InputError("none of its triangles is visible from any camera; a mesh needs an area")
    return [
        View(rgba_HW4, view.rotation_deg, view.elevation_deg)
        for rgba_HW4, view in zip(rgba_BHW4, angles, strict=True)
    ]
