"""Pictures of meshes for people to look at: one three-quarter view each, over white, all at one scale.

Shape legend: V vertices, H W pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from get3d_model.cameras import orbit_camera
from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer
from get3d_model.rendering.select import make_rasterizer
from get3d_model.types import Camera, TexturedMesh

SUPERSAMPLE = 4
# Farther away than the training cameras and with a longer lens: proportions look natural.
DISTANCE = 2.6
# White around the mesh that fills the picture most, as a share of half the picture.
MARGIN = 0.05
# World units; a smaller mesh is shown small instead of being blown up.
SMALLEST_HALF_VIEW = 0.25
EMPTY_LABEL = "empty mesh"
LABEL_GREY = (140, 140, 140)
UNLIT = Lighting.unlit()


@dataclass(frozen=True)
class Viewpoint:
    """Where the camera stands. rotation_deg: 180 looks at the front (+z), 270 at the +x side, 0 at the back.
    elevation_deg: above the horizon."""

    rotation_deg: float
    elevation_deg: float


FRONT = Viewpoint(222.0, 20.0)
BACK = Viewpoint(42.0, 20.0)


def mesh_pictures(
    meshes: Sequence[TexturedMesh],
    resolution: int,
    lighting: Lighting = UNLIT,
    viewpoint: Viewpoint = FRONT,
) -> list[np.ndarray]:
    """One uint8 HW3 picture of `resolution`^2 pixels per mesh.

    The field of view is the same for all and just wide enough for the largest. Generated textures already
    hold the shading, so unlit is right for them; give `Lighting()` for meshes with plain colours. A mesh
    without faces gives a blank picture that says so.
    """
    camera = _camera_for(meshes, viewpoint)
    renderer = MeshRenderer(make_rasterizer(torch.device("cpu")), resolution, SUPERSAMPLE, lighting)
    return [
        _over_white(renderer.render(mesh, camera)[0]) if len(mesh.faces_F3) else _blank(resolution)
        for mesh in meshes
    ]


def _camera_for(meshes: Sequence[TexturedMesh], viewpoint: Viewpoint) -> Camera:
    """The narrowest camera that has every mesh in the picture."""
    angles = (
        torch.tensor([math.radians(viewpoint.rotation_deg)]),
        torch.tensor([math.radians(90.0 - viewpoint.elevation_deg)]),
    )
    world2cam_44 = orbit_camera(*angles, radius=DISTANCE).world2cam_B44[0].double().numpy()
    half_view = SMALLEST_HALF_VIEW / DISTANCE
    for mesh in meshes:
        if len(mesh.faces_F3):
            corners_V3 = mesh.vertices_V3[np.unique(mesh.faces_F3)]
            view_V3 = corners_V3 @ world2cam_44[:3, :3].T + world2cam_44[:3, 3]
            half_view = max(half_view, float((np.abs(view_V3[:, :2]) / -view_V3[:, 2:]).max()))
    field_of_view_rad = 2.0 * math.atan(half_view * (1.0 + MARGIN))
    return orbit_camera(*angles, radius=DISTANCE, field_of_view_rad=field_of_view_rad)


def _over_white(rgba_HW4: np.ndarray) -> np.ndarray:
    alpha_HW1 = rgba_HW4[..., 3:] / 255.0
    return (rgba_HW4[..., :3] * alpha_HW1 + 255.0 * (1.0 - alpha_HW1)).round().astype(np.uint8)


def _blank(resolution: int) -> np.ndarray:
    picture = Image.new("RGB", (resolution, resolution), "white")
    font = ImageFont.load_default(max(8.0, resolution / 14))
    ImageDraw.Draw(picture).text((resolution / 2, resolution / 2), EMPTY_LABEL, LABEL_GREY, font, anchor="mm")
    return np.asarray(picture)
