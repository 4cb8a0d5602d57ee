"""Baking a texture field into the texture image of an unwrapped mesh.

The field is queried once per covered texel, nowhere else; the texels around the charts then repeat their nearest
covered neighbour, so that bilinear and mip-mapped lookups at seams never see the empty background.

Shape legend: W vertices, F faces, H texture size, T covered texels
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.uv_atlas import UnwrappedMesh
from get3d_model.types import TexturedMesh


def bake_texture(
    rasterizer: Rasterizer,
    unwrapped: UnwrappedMesh,
    resolution: int,
    color_at: Callable[[Tensor], Tensor],
    device: torch.device,
) -> TexturedMesh:
    """`color_at` maps world points T3 to RGB in [-1, 1] (clamped here)."""
    mesh = unwrapped.mesh
    texture_HH3 = np.full((resolution, resolution, 3), 255, np.uint8)
    if len(mesh.faces_F3):
        # Row 0 of the texture is v = 1, row 0 of a raster image is clip y = -1.
        clip_W4 = np.ones((len(mesh.vertices_V3), 4), np.float32)
        clip_W4[:, 0] = unwrapped.uvs_W2[:, 0] * 2.0 - 1.0
        clip_W4[:, 1] = 1.0 - unwrapped.uvs_W2[:, 1] * 2.0
        clip_W4[:, 2] = 0.0
        faces_F3 = torch.from_numpy(mesh.faces_F3).to(device)
        ranges_12 = torch.tensor([[0, len(mesh.faces_F3)]], dtype=torch.int32)
        rast_1HH4 = rasterizer.rasterize(
            torch.from_numpy(clip_W4).to(device), faces_F3, ranges_12, (resolution, resolution)
        )
        points_1HH3 = rasterizer.interpolate(
            torch.from_numpy(mesh.vertices_V3).to(device), rast_1HH4, faces_F3
        )
        covered_HH = rast_1HH4[0, ..., 3] > 0
        color_T3 = color_at(points_1HH3[0][covered_HH]).float().clamp(-1.0, 1.0)
        covered = covered_HH.cpu().numpy()
        texture_HH3[covered] = ((color_T3 + 1.0) * 127.5).round().to(torch.uint8).cpu().numpy()
        if covered.any():
            rows, columns = distance_transform_edt(~covered, return_distances=False, return_indices=True)
            texture_HH3 = texture_HH3[rows, columns]
    return TexturedMesh(mesh.vertices_V3, mesh.faces_F3, unwrapped.uvs_W2, texture_HH3)
