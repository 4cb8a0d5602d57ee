"""Pictures of textured meshes: training data, previews, reports.

Supersampled in linear light, straight alpha. Lights stand still in the world while the camera moves, so that
a point of the surface has one colour in all views; that is what a texture can represent (see lighting.py).

Shape legend: B views, V vertices, F faces, H W pixels, N M samples
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from get3d_model.parallel_for import parallel_for
from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.lighting import Lighting as Lighting
from get3d_model.rendering.lighting import LightSource
from get3d_model.rendering.mipmap import SRGB_TO_LINEAR_256, build_mips, face_texels
from get3d_model.rendering.normals import crease_normals, face_normals
from get3d_model.rendering.shading import shade_kernel
from get3d_model.types import Camera, TexturedMesh

# Samples rasterised at a time: 16 bytes each in the rasteriser's buffer, so 64 MB.
MAX_SAMPLES = 1 << 22
CPU = torch.device("cpu")


@dataclass(frozen=True)
class MeshRenderer:
    """Renders one mesh from several cameras.

    resolution: height and width in pixels. supersample: samples per pixel and axis. device: where
    `rasterizer` works; shading runs on the CPU.
    """

    rasterizer: Rasterizer
    resolution: int
    supersample: int
    lighting: LightSource
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.supersample < 1:
            raise ValueError(
                f"resolution and supersample must be at least 1; got {self.resolution} and {self.supersample}"
            )

    def render(self, mesh: TexturedMesh, camera: Camera) -> np.ndarray:
        """BHW4 uint8: sRGB with straight alpha, row 0 the top; (0, 0, 0, 0) where nothing is.

        Textures are looked up bilinearly, repeating, from mip levels; surfaces are lit on both sides. Memory
        beyond the images and the texture's levels stays under about 200 MB at any resolution.
        Raises ValueError when the mesh's arrays do not fit together.
        """
        _check(mesh)
        size, samples = self.resolution, self.supersample
        out_BHW4 = np.zeros((len(camera), size, size, 4), np.uint8)
        faces_F3 = np.ascontiguousarray(mesh.faces_F3, np.int32)
        if not len(faces_F3):
            return out_BHW4
        vertices_V3 = np.ascontiguousarray(mesh.vertices_V3, np.float32)
        mips = build_mips(mesh.texture_HW3)
        texels = face_texels(mesh.uvs_V2, faces_F3, mips)
        fixed = (
            faces_F3,
            vertices_V3[faces_F3],
            face_normals(vertices_V3, faces_F3),
            crease_normals(vertices_V3, faces_F3),
            texels.texels_F32,
            texels.area_F,
            texels.max_level_F,
            texels.flat_F,
            mips.base_HW3,
            mips.texels_T3,
            mips.sizes_L3,
            SRGB_TO_LINEAR_256,
            self.lighting.as_array(),
            _light_map(self.lighting),
        )
        faces = torch.from_numpy(faces_F3).to(self.device)
        range_12 = torch.tensor([[0, len(faces_F3)]], dtype=torch.int32)
        world2clip_B44 = camera.world2clip_B44.detach().cpu().double().numpy()
        cam2world_B44 = torch.linalg.inv(camera.world2cam_B44.detach().cpu().double())
        strip = max(1, min(size, MAX_SAMPLES // (size * samples * samples)))
        for view in range(len(camera)):
            clip_V4 = _clip_positions(vertices_V3, world2clip_B44[view])
            for first in range(0, size, strip):
                end = min(size, first + strip)
                rast_1NM4 = self.rasterizer.rasterize(
                    torch.from_numpy(_crop_rows(clip_V4, first, end, size)).to(self.device),
                    faces,
                    range_12,
                    ((end - first) * samples, size * samples),
                )
                parallel_for(
                    shade_kernel,
                    end - first,
                    torch.get_num_threads(),
                    rast_1NM4[0].cpu().numpy(),
                    samples,
                    clip_V4,
                    *fixed,
                    cam2world_B44[view, :3, 3].numpy().copy(),
                    (2.0 / (size * samples)) ** 2,
                    out_BHW4[view, first:end],
                )
        return out_BHW4


def _clip_positions(vertices_V3: np.ndarray, world2clip_44: np.ndarray) -> np.ndarray:
    """V4 float64. Not by torch, whose worker threads go on spinning and take the cores from the kernels."""
    return np.einsum("vk,jk->vj", vertices_V3, world2clip_44[:, :3]) + world2clip_44[:, 3]


def _light_map(lighting: LightSource) -> np.ndarray:
    """RR3 float32 for the kernel; R is 0 where the lights themselves are given."""
    map_RR3 = lighting.irradiance_map()
    return np.zeros((0, 0, 3), np.float32) if map_RR3 is None else np.ascontiguousarray(map_RR3, np.float32)


def _crop_rows(clip_V4: np.ndarray, first: int, end: int, size: int) -> np.ndarray:
    """Clip-space positions, V4 float32, for which pixel rows [first, end) of `size` fill the image."""
    cropped_V4 = clip_V4.astype(np.float32)
    if end - first < size:
        cropped_V4[:, 1] = (clip_V4[:, 1] * size + clip_V4[:, 3] * (size - first - end)) / (end - first)
    return cropped_V4


def _check(mesh: TexturedMesh) -> None:
    vertices = len(mesh.vertices_V3)
    if mesh.uvs_V2.shape != (vertices, 2) or not np.isfinite(mesh.uvs_V2).all():
        raise ValueError(f"the mesh needs one finite texture coordinate for each of its {vertices} vertices")
    texture = mesh.texture_HW3
    if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 3 or 0 in texture.shape:
        raise ValueError(f"the texture must be uint8 HW3; got {texture.dtype} {texture.shape}")
    if len(mesh.faces_F3) and not (mesh.faces_F3.min() >= 0 and mesh.faces_F3.max() < vertices):
        raise ValueError(f"the faces refer to vertices outside of the {vertices} there are")
